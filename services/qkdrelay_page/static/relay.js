// One relay: its shares by route, as `coordinator trace` has them; what of it is to be seen at a step, and in words.

import { el, facts } from "./dom.js";
import { counted, linkName, named, reasonOf, seconds, styleOf } from "./words.js";

const SHOWN_MAX = 250; // nodes of the tree, and lines of a list
const DOTS_MAX = 8; // shares drawn on one hop at a time

/** A relay with its shares, each node one route: {kme, route, depth, state, children, ...}. */
export class Relay {
  constructor(data) {
    this.show = data.show;
    this.attack = data.attack;
    this.root = data.trace.flow;
    this.nodes = [];
    this.hops = new Map();
    this.#take(this.root, null, 0);
    this.nodes.sort((one, other) => one.depth - other.depth);
    this.depth = Math.max(...this.nodes.map((node) => node.depth));
  }

  #take(node, parent, depth) {
    const seen = node.state !== "not seen" && node.state !== "stuck";
    const mine = { ...node, parent, depth, seen, key: node.route.join(">"), waits: node.state === "stuck" };
    mine.children = (node.children ?? []).map((child) => this.#take(child, mine, depth + 1));
    this.nodes.push(mine);
    if (depth > 0) {
      const hop = `${parent.kme}>${node.kme}`;
      this.hops.set(hop, [...(this.hops.get(hop) ?? []), mine]);
    } else {
      this.root = mine;
    }
    return mine;
  }

  /** Steps there are: each hop, the rebuilding, the end. */
  get last() {
    return this.depth + 2;
  }

  get isDecided() {
    return this.show.state === "confirmed" || this.show.state === "failed";
  }

  /** Whether what stood at the end of the node's route can be rebuilt at the target from what has arrived by a step. */
  isRebuilt(node, step) {
    if (!this.isGood(node)) return false;
    return node.kme === this.show.target ? node.state === "arrived" && node.depth <= step : this.isMet(node, step);
  }

  /** Whether as many of the shares that a node sent can be had at the target as it takes. */
  isMet(node, step) {
    return node.children.filter((child) => this.isRebuilt(child, step)).length >= (node.threshold ?? 1);
  }

  /** Whether nothing is held against a share: of those that are disputed, which are good shows in the end alone. */
  isGood(node) {
    return !node.marks?.includes("false") && (this.show.state === "confirmed" || !node.marks?.includes("disputed"));
  }

  /** What is drawn over the map at a step. */
  overlay(step) {
    const whole = Math.floor(step);
    const hops = [...this.hops].map(([hop, nodes]) => {
      const [from, to] = hop.split(">");
      const carried = nodes.filter((node) => node.seen && node.depth <= whole).length;
      const waits = nodes.some((node) => node.waits && node.depth <= whole);
      const isFalse = nodes.some((node) => !this.isGood(node) && node.depth <= whole);
      const style = isFalse ? "false" : waits ? "waits" : carried === 0 ? "none" : "";
      return { from, to, style, text: carried || waits ? `${carried}/${nodes.length}` : "" };
    });
    const thresholds = new Map();
    for (const node of this.nodes.filter((each) => each.threshold && (each.shares ?? 0) > 1 && each.depth <= step)) {
      const met = this.isMet(node, step) && (thresholds.get(node.kme)?.met ?? true);
      thresholds.set(node.kme, { text: `${node.threshold} of ${node.shares}`, met });
    }
    return { hops, thresholds, compromised: new Set(this.attack?.kmes ?? []) };
  }

  /** Shares on their way at a step, and those that wait. */
  dots(step) {
    const dots = [];
    for (const [hop, nodes] of this.hops) {
      const [from, to] = hop.split(">");
      let drawn = 0;
      for (const node of nodes) {
        const part = step - node.depth + 1;
        const style = this.isGood(node) ? "" : "false";
        if (drawn >= DOTS_MAX || part <= 0) continue;
        if (node.waits) dots.push({ from, to, part: 0.12 + 0.05 * drawn++, style: "waits" });
        else if (node.seen && part < 1) dots.push({ from, to, part: Math.max(0, part - 0.06 * drawn++), style });
      }
    }
    return dots;
  }

  /** Say what happens in a step. */
  stepText(step) {
    const number = Math.min(Math.ceil(step), this.last);
    const show = this.show;
    if (number <= 0) return `${show.source} has ${counted(show.key_count, "key")} of ${show.key_size_bits} bits for ${show.target}`;
    if (number > this.depth) {
      const rebuilt = this.isRebuilt(this.root, this.depth);
      if (number === this.depth + 1) {
        if (!rebuilt) return `${show.target} has too few good shares to rebuild the keys`;
        return show.state === "failed" ? `${show.target} has enough shares for the keys` : `${show.target} rebuilds the keys, from the inside out`;
      }
      return show.state === "confirmed" ? `both ends have proven it to each other: confirmed, in ${seconds(show.elapsed_s)}` : `${show.state}${show.reason ? `: ${show.reason}` : ""}`;
    }
    const moving = this.nodes.filter((node) => node.depth === number);
    const senders = new Map(moving.map((node) => [node.parent.kme, node.parent]));
    const splitting = [...senders.values()].filter((node) => (node.shares ?? 0) > 1);
    const forwarding = [...senders.values()].filter((node) => !((node.shares ?? 0) > 1));
    const needs = [...new Set(splitting.map((node) => `${node.threshold} of ${node.shares}`))];
    const parts = [];
    if (splitting.length) parts.push(`${named(splitting.map((node) => node.kme))} split${splitting.length === 1 ? "s" : ""} what ${splitting.length === 1 ? "it has" : "they have"}, ${named(needs)} needed`);
    if (forwarding.length) parts.push(`${named(forwarding.map((node) => node.kme))} forward${forwarding.length === 1 ? "s" : ""}`);
    const seen = moving.filter((node) => node.seen).length;
    const waiting = moving.filter((node) => node.waits).length;
    return `${parts.join("; ")}: ${seen} of ${counted(moving.length, "share")} crossed${waiting ? `, ${waiting} wait${waiting === 1 ? "s" : ""}` : ""}`;
  }
}

const MARKS = { false: "FALSE", disputed: "disputed", equivocating: "EQUIVOCATING" };
const STATES = { split: "split", forwarded: "forwarded", arrived: "arrived", held: "has it", stuck: "waits", "not seen": "no news of it" };

function treeOf(relay) {
  let left = SHOWN_MAX;
  const branch = (node) => {
    if (left-- <= 0) return null;
    const words = node.state === "split" && node.shares > 1 ? `split, ${node.threshold} of ${node.shares} needed` : STATES[node.state];
    const style = node.state === "arrived" ? "good" : node.seen ? "" : "warn";
    return el("li", { "data-route": node.key, "data-state": node.state },
      el("strong", {}, node.kme), " ", el("span", { class: style }, words, node.reason ? `: ${reasonOf(node.reason)}` : ""),
      (node.marks ?? []).map((mark) => [" ", el("span", { class: "bad badge" }, MARKS[mark] ?? mark)]),
      node.children.length && (node.seen || node.depth === 0) ? el("ul", {}, node.children.map(branch)) : null);
  };
  const tree = el("ul", { class: "tree" }, branch(relay.root));
  return [tree, left < 0 ? el("p", { class: "soft" }, `and ${-left} more: coordinator trace ${relay.show.relay_id.slice(0, 8)}`) : null];
}

const routes = (title, lists, style) =>
  lists.length ? [el("h3", {}, title), el("ul", {}, lists.slice(0, 20).map((route) => el("li", { class: style }, route.join(" > "))), lists.length > 20 ? el("li", {}, `and ${lists.length - 20} more`) : null)] : null;

function splits(relay) {
  const rows = relay.nodes.filter((node) => (node.shares ?? 0) > 1).slice(0, 40).map((node) => {
    const present = node.children.filter((child) => relay.isRebuilt(child, relay.last)).length;
    const met = present >= node.threshold;
    return el("li", { "data-split": node.key, "data-present": present }, el("span", { class: met ? "good" : "warn" }, `${node.key}: ${present} of ${node.shares} there, ${node.threshold} needed ${met ? "✓" : ""}`));
  });
  return rows.length ? [el("h3", {}, "Thresholds at the target"), el("ul", {}, rows)] : null;
}

function attackOf(attack) {
  if (!attack) return null;
  const by = attack.kmes.length ? `${named(attack.kmes)}, with ${counted(attack.shares_held, "share")}` : "no KME has leaked a share of it";
  const short = attack.short_splits.slice(0, 10).map((split) => el("li", {}, `the split on ${split.split.join(" > ")}: ${split.present} of the ${split.needed} it takes`));
  return [el("h3", {}, "The lab's adversary"),
    el("p", { id: "learned", class: attack.learned ? "bad" : "good" }, attack.learned ? `LEARNED the keys: ${by}` : `learned nothing: ${by}`),
    short.length ? el("ul", {}, short) : null];
}

/** Return the details of a relay. */
export function relayDetails(relay) {
  const show = relay.show;
  const count = (name, value) => el("span", { "data-count": name }, String(value));
  const arrived = relay.nodes.filter((node) => node.state === "arrived").length;
  const final = relay.nodes.filter((node) => node.kme === show.target).length;
  const stuck = show.stuck.slice(0, 20).map((each) => el("li", { class: "warn" }, `${each.route.join(" > ")}: ${reasonOf(each.reason)}`));
  return [
    el("h2", {}, el("span", { id: "state", class: `badge ${styleOf(show.state)}` }, show.state), ` ${show.source} to ${show.target}`),
    facts([
      ["relay", show.relay_id],
      ["keys", `${show.key_count} of ${show.key_size_bits} bits`],
      [relay.isDecided ? "took" : "for", seconds(show.elapsed_s ?? Math.max(0, Date.now() / 1000 - show.created_at))],
      ["reason", show.reason || null],
      ["policy", show.policy],
      ["protection", show.protected ? null : "none: one compromised KME could learn the keys"],
      ["relies on", show.relies_on.length ? named(show.relies_on) : null],
      ["shares", [count("share_messages", show.share_messages), " of ", count("planned_share_messages", show.planned_share_messages), " crossed their links; ", count("arrived", arrived), " of ", String(final), ` reached ${show.target}`]],
      ["released at", show.released_at.length ? named(show.released_at) : null],
    ]),
    stuck.length ? [el("h3", {}, "Waiting"), el("ul", {}, stuck)] : null,
    routes("False", show.false_shares, "bad"),
    show.disputed.length ? [el("h3", {}, "Disputed"), el("ul", {}, show.disputed.slice(0, 10).map((each) => el("li", { class: "warn" }, `the shares of the split on ${each.split.join(" > ")} do not fit together`)))] : null,
    routes("Equivocating", show.equivocating, "bad"),
    attackOf(relay.attack),
    splits(relay),
    el("h3", {}, "Shares by link"),
    el("ul", { class: "sets" }, Object.entries(show.planned_shares).map(([link, planned]) => el("li", { "data-link": link, class: show.shares[link] === planned ? "" : "warn" }, `${linkName(link)} ${show.shares[link] ?? 0}/${planned}`))),
    el("h3", {}, "Flow"),
    treeOf(relay),
  ];
}
