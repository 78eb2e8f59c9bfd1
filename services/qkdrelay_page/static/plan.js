// A plan for any two KMEs and what it withstands: asked of the server, shown on the map.

import { byId, el, table } from "./dom.js";
import { counted, linkName, named } from "./words.js";

const number = (value) => ({ number: String(value) });
const option = (value, text, chosen) => el("option", { value, selected: chosen }, text);

/** Return the address of what a form asks. */
export function asked(form) {
  const data = new FormData(form);
  const query = new URLSearchParams();
  for (const name of ["policy", "compromised", "failed", "cut"]) {
    const values = data.getAll(name).filter(Boolean);
    if (values.length) query.set(name, values.join(","));
  }
  const more = query.toString();
  return `#plan/${data.get("source")}/${data.get("target")}${more ? `?${more}` : ""}`;
}

/** Return the form, with what was asked last. */
export function planForm(network, question) {
  const kmes = network.kmes.map((kme) => kme.name);
  const links = network.links.map((link) => link.link.join(":"));
  const [source, target] = [question.source ?? kmes[0], question.target ?? kmes[kmes.length - 1]];
  const chosen = (name) => new Set((question[name] ?? "").split(","));
  const one = (name, label, values, current, first) => [
    el("label", { for: name }, label),
    el("select", { id: name, name }, first, values.map((value) => option(value, value, value === current))),
  ];
  const several = (name, label, values) => [
    el("label", { for: name }, label),
    el("select", { id: name, name, multiple: true, size: "4" }, values.map((value) => option(value, linkName(value.split(":")), chosen(name).has(value)))),
  ];
  return el("form", { id: "ask" },
    one("source", "from", kmes, source), one("target", "to", kmes, target),
    one("policy", "policy", ["disjoint", "recursive", "trusted"], question.policy, option("", "the best there is", !question.policy)),
    el("details", { open: Boolean(question.compromised || question.failed || question.cut) }, el("summary", {}, "What if ..."),
      several("compromised", "these KMEs are compromised", kmes), several("failed", "these KMEs are down", kmes), several("cut", "these links are cut", links)),
    el("p", {}, el("button", { type: "submit" }, "Show the plan")));
}

function sets(title, found, smallest, isComplete, none) {
  if (!found.length) return [el("h3", {}, title), el("p", { class: "good" }, none)];
  const shown = found.slice(0, 40);
  return [el("h3", {}, `${title}: at least ${smallest}`),
    el("ul", { class: "sets" }, shown.map((members) => el("li", {}, el("button", { type: "button", "aria-pressed": "false", "data-mark": JSON.stringify(members) }, named(members.map(linkName)))))),
    found.length > shown.length || !isComplete ? el("p", { class: "soft" }, "and more: coordinator analyse lists them") : null];
}

/** Return the answer in words and tables. */
export function planDetails({ plan, analysis, taken }) {
  const rows = plan.plans.map((each) => ({
    key: each.policy,
    cells: [el(each.policy === taken.policy ? "strong" : "span", {}, each.policy + (each.policy === taken.policy ? " (shown)" : "")), number(each.withstands.compromised), number(each.withstands.failed), number(each.withstands.failed_links), number(each.withstands.tampering), number(each.messages)],
  }));
  const isCase = analysis.compromised.length || analysis.failed.length || analysis.cut.length;
  return [
    table("Plans, and how many of each they withstand", ["policy", { number: "compromised" }, { number: "failed" }, { number: "links" }, { number: "tampering" }, { number: "messages" }], rows),
    taken.relies_on.length ? el("p", { class: "warn" }, `It relies on the honesty of ${named(taken.relies_on)}.`) : taken.meets_wish ? null : el("p", { class: "bad" }, "It does not withstand one compromised KME."),
    isCase ? [el("h3", {}, "In this case"), el("p", { id: "delivered", class: analysis.delivered ? "good" : "bad" }, `the keys are ${analysis.delivered ? "" : "not "}delivered`), el("p", { id: "case-learned", class: analysis.learned ? "bad" : "good" }, `the keys are ${analysis.learned ? "LEARNED" : "not learned"}`)] : null,
    sets("KMEs that together could learn the keys", analysis.minimal_learning_coalitions, counted(analysis.smallest.minimal_learning_coalitions ?? 0, "KME"), analysis.complete.minimal_learning_coalitions, "None on the way, even all together."),
    sets("KMEs whose failure blocks them", analysis.minimal_blocking_kmes, counted(analysis.smallest.minimal_blocking_kmes ?? 0, "KME"), analysis.complete.minimal_blocking_kmes, "None."),
    sets("Links whose failure blocks them", analysis.minimal_blocking_links, counted(analysis.smallest.minimal_blocking_links ?? 0, "link"), analysis.complete.minimal_blocking_links, "None."),
  ];
}

/** What is drawn over the map for an answer; `marked` are KMEs or links that stand out. */
export function planOverlay({ analysis, taken }, marked) {
  const marks = new Set(marked.map((each) => (Array.isArray(each) ? [...each].sort().join(":") : each)));
  const cut = new Set(analysis.cut.map((link) => [...link].sort().join(":")));
  const hops = Object.entries(taken.successors).flatMap(([from, successors]) => successors.map((to) => {
    const link = [from, to].sort().join(":");
    return { from, to, style: cut.has(link) ? "cut" : marks.has(link) ? "false" : "", text: "" };
  }));
  const thresholds = new Map(Object.entries(taken.successors).filter(([, successors]) => successors.length > 1).map(([kme, successors]) => [kme, { text: `${taken.thresholds[kme]} of ${successors.length}`, met: false }]));
  return { hops, thresholds, marked: marks, compromised: new Set(analysis.compromised), failed: new Set(analysis.failed) };
}

export const marksOf = () => [...byId("side").querySelectorAll("[data-mark][aria-pressed=true]")].flatMap((button) => JSON.parse(button.dataset.mark));
