// Views that are tables and lists: relays, one KME or link, supplies, attention.

import { el, facts, table } from "./dom.js";
import { kmeWords, linkWords } from "./map.js";
import { bytes, counted, moment, percent, rate, seconds, spans, styleOf } from "./words.js";

const number = (value) => ({ number: String(value) });

/** Return the list of the latest relays. */
export function relaysList(relays, current) {
  if (!relays.relays.length) return [el("h2", {}, "Relays"), el("p", {}, "None yet: coordinator relay SOURCE TARGET makes one.")];
  const rows = relays.relays.map((relay) => ({
    key: relay.relay_id,
    cells: [
      el("a", { href: `#relay/${relay.relay_id}`, "aria-current": relay.relay_id === current ? "true" : null }, relay.relay_id.slice(0, 8)),
      el("span", { class: styleOf(relay.state) }, relay.state + (relay.supply ? " (supply)" : "")),
      `${relay.source} > ${relay.target}`,
      number(relay.key_count),
      number(seconds(relay.elapsed_s)),
    ],
  }));
  return [el("h2", {}, `Relays, ${relays.total} in all`), table("The latest relays", ["relay", "state", "from > to", { number: "keys" }, { number: "took" }], rows)];
}

/** Return the details of a KME or of a link, `a:b`; null for what is not there. */
export function detailsOf(name, network, supplies) {
  const kme = network.kmes.find((each) => each.name === name);
  if (kme) return kmeDetails(kme, network, supplies);
  const link = network.links.find((each) => each.link.join(":") === name);
  return link ? [el("h2", {}, `QKD link ${link.link.join(" - ")}`), linkTable([link]), el("p", { class: "soft" }, linkWords(link))] : null;
}

function linkTable(links) {
  const rows = links.flatMap((link) => link.directions.map((each) => ({
    key: `${each.from}>${each.to}`,
    cells: [`${each.from} > ${each.to}`, el("span", { class: each.state === "up" ? "good" : "warn" }, each.state + (link.ordered_down ? " (ordered)" : "")),
      number(`${percent(each.level)}${each.available_bytes === null ? "" : ` (${bytes(each.available_bytes)})`}`), number(rate(each.rate_bps)), number(each.waiting)],
  })));
  return table("QKD links", ["direction", "state", { number: "key" }, { number: "rate" }, { number: "waiting" }], rows);
}

function kmeDetails(kme, network, supplies) {
  const links = network.links.filter((link) => link.link.includes(kme.name));
  const mine = supplies?.supplies.filter((one) => one.source === kme.name || one.target === kme.name) ?? [];
  return [
    el("h2", {}, kme.name),
    facts([
      ["state", kmeWords(kme)],
      ["last heard", kme.heard_s_ago === null ? "not yet" : `${seconds(kme.heard_s_ago)} ago`],
      ["version", kme.version || "?"],
      ["clock", kme.clock_off_s === null ? "right" : `off by ${kme.clock_off_s} s`],
      ["relays pending", String(kme.pending)],
      ["noted as", kme.trust],
    ]),
    el("h3", {}, "Links"), linkTable(links),
    mine.length ? [el("h3", {}, "Supply"), supplyTable(mine)] : null,
    el("p", {}, el("a", { href: `#plan/${kme.name}` }, `Plan a relay from ${kme.name}`)),
  ];
}

const supplyTable = (supplies) =>
  table("Supply of keys, by pair of KMEs", ["from, to", { number: "level" }, { number: "stored" }, { number: "coming" }, { number: "wanted" }, { number: "used/s" }, { number: "waiting" }, { number: "refills" }, "why it is refilled, or what is in the way"],
    supplies.map((one) => ({
      key: `${one.source}>${one.target}/${one.level}`,
      cells: [`${one.source} to ${one.target}`, number(one.level),
        { number: el("span", { class: one.waiting && !one.stored_bytes ? "bad" : "" }, one.waiting && !one.stored_bytes ? "dry" : bytes(one.stored_bytes)) },
        number(bytes(one.pending_bytes)), number(bytes(one.wanted_bytes)), number(bytes(Math.round(one.assigned_bytes_per_s))), number(one.waiting), number(one.refills), el("div", { class: "long" }, one.why || one.served)],
    })));

/** Return the view of keys for applications. */
export function suppliesView(supplies) {
  if (!supplies.kmes.length) return [el("h2", {}, "Supplies"), el("p", {}, "No KME has applications; coordinator saes add adds one.")];
  return [
    el("h2", {}, "Keys for applications"),
    el("p", {}, `KMEs with applications: ${supplies.kmes.join(", ")}`),
    supplies.supplies.length ? supplyTable(supplies.supplies) : null,
    supplies.pairs.length
      ? table("Keys, by pair of applications (SAEs)", ["master, slave", "at", { number: "level" }, { number: "ready" }, { number: "handed out" }, { number: "burned" }, { number: "expired" }, { number: "keys/s" }, { number: "waiting" }, "what is in the way"],
          supplies.pairs.map((pair) => ({
            key: `${pair.master} ${pair.slave} ${pair.level}`,
            cells: [`${pair.master} to ${pair.slave}`, pair.kme, number(pair.level), { number: el("span", { class: pair.low ? "warn" : "" }, `${pair.ready_keys}${pair.low ? " (low)" : ""}`) },
              number(pair.handed_out), number(pair.burned), number(pair.expired), number(pair.keys_per_s.toFixed(1)), number(pair.waiting), el("div", { class: "long" }, pair.why)],
          })))
      : null,
    !supplies.supplies.length && !supplies.pairs.length ? el("p", {}, "No pair of applications has asked for keys yet.") : null,
    supplies.left_out ? el("p", { class: "soft" }, `and ${supplies.left_out} more`) : null,
  ];
}

/** Return the view of what asks for somebody. */
export function attentionView(attention) {
  const items = attention.items.map((item, index) =>
    el("li", { class: item.at === null ? "now" : null, "data-kind": item.kind, "data-key": `${item.kind} ${item.about} ${item.at ?? ""} ${index}` },
      el("p", {}, el("strong", { class: item.at === null ? "bad" : "warn" }, item.kind), " ", item.relay_id ? el("a", { href: `#relay/${item.relay_id}` }, item.about) : item.about, el("span", { class: "soft" }, item.at === null ? " now" : ` at ${moment(item.at)}`)),
      el("p", {}, item.text),
      el("p", { class: "soft" }, spans(item.advice).map((part, place) => (place % 2 ? el("code", {}, part) : part)), ` More in docs/operating.md, “${item.section}”.`)));
  const letters = attention.letters_total ? el("p", { class: "soft" }, `${counted(attention.letters_total, "dead letter")} kept.`) : null;
  return [el("h2", {}, "What asks for somebody"), items.length ? el("ul", { class: "items" }, items) : el("p", { class: "good" }, "Nothing."), letters];
}
