// The map: KMEs and QKD links as they are, and on it a relay or a plan.

import { byId, show, svg } from "./dom.js";
import { counted, percent, rate } from "./words.js";

const MARGIN_PX = 40;
const NARROW_MAX = 12; // KMEs of a network whose map fits any window
const NARROW_PX = 720;

let places = {};
let unit = 1; // of the map, for one pixel
let radius = 15;
let width = 1000;

/** Return how large things are, in units of the map, for the window as it is. */
function measure(layout) {
  const count = Object.keys(layout.kmes).length;
  const map = byId("map");
  map.style.minWidth = count > NARROW_MAX ? `${NARROW_PX}px` : "";
  unit = layout.width / Math.max(map.clientWidth - 2 * MARGIN_PX, 200);
  const margin = MARGIN_PX * unit;
  map.setAttribute("viewBox", `${-margin} ${-margin} ${layout.width + 2 * margin} ${layout.height + 2 * margin}`);
  width = layout.width;
  radius = (count <= 12 ? 14 : count <= 25 ? 10 : 7) * unit;
  return { font: (count <= 25 ? 14 : 11) * unit, thin: (count <= 25 ? 4 : 3) * unit };
}

/** Return the ends of the line on which shares go from one KME to another. */
export function way(from, to) {
  const [a, b] = [places[from], places[to]];
  const length = Math.hypot(b[0] - a[0], b[1] - a[1]) || 1;
  const along = [(b[0] - a[0]) / length, (b[1] - a[1]) / length];
  const aside = [-along[1] * 3.4 * unit, along[0] * 3.4 * unit];
  const gap = Math.min(radius + 3 * unit, length / 3);
  return [
    [a[0] + along[0] * gap + aside[0], a[1] + along[1] * gap + aside[1]],
    [b[0] - along[0] * gap + aside[0], b[1] - along[1] * gap + aside[1]],
  ];
}

const between = ([p, q], part) => [p[0] + (q[0] - p[0]) * part, p[1] + (q[1] - p[1]) * part];
const line = (kind, [p, q], width) => svg("line", { class: kind, x1: p[0], y1: p[1], x2: q[0], y2: q[1], "stroke-width": width });
const sign = (kind, [x, y], text, font) =>
  svg("text", { class: `sign ${kind}`, x, y, "font-size": font, "stroke-width": 3 * unit }, text);

const SIGNS = { down: "✕", dry: "○", unknown: "?" };

function linkShown(link, chosen, sizes, hasRates) {
  const [a, b] = link.link;
  const key = `${a}:${b}`;
  const states = link.directions.map((each) => each.state);
  const parts = link.directions.flatMap((each) => {
    const ends = way(each.from, each.to);
    const full = [ends[0], between(ends, each.level ?? 0)];
    return [svg("g", { class: each.state }, line("track", ends, sizes.thin), line("level", full, sizes.thin)),
      each.state === "up" ? null : sign(each.state, between(ends, 0.4), SIGNS[each.state], sizes.font)];
  });
  if (hasRates && states.every((state) => state === "up")) {
    const [x, y] = between([places[a], places[b]], 0.5);
    parts.push(sign("rate", [x, y - 9 * unit], ratesOf(link), 10.5 * unit));
  }
  return svg("a", { class: `link${chosen === key ? " chosen" : ""}`, href: `#map/${key}`, "data-key": key, "data-states": states.join(" "), "aria-label": `QKD link ${a} - ${b}: ${linkWords(link)}` },
    line("hit", [places[a], places[b]], 18 * unit), parts);
}

const ratesOf = (link) => [...new Set(link.directions.map((each) => rate(each.rate_bps)))].join(" / ");

/** Return the rate that all links have, in words; null if they differ. */
export function commonRate(network) {
  const rates = new Set(network.links.map(ratesOf));
  return rates.size === 1 ? [...rates][0] : null;
}

/** Say how a link is. */
export function linkWords(link) {
  const said = link.directions.map((each) => `${each.from} to ${each.to} ${each.state}, key ${percent(each.level)}${each.waiting ? `, ${counted(each.waiting, "share")} waiting` : ""}`);
  return `${said.join("; ")}; ${ratesOf(link)}${link.ordered_down ? "; ordered down" : ""}`;
}

function kmeShown(kme, overlay, sizes) {
  const compromised = kme.lab_mode !== null || overlay.compromised?.has(kme.name);
  const away = kme.state !== "healthy" || overlay.failed?.has(kme.name);
  const inside = away ? "?" : compromised ? "!" : kme.clock_off_s !== null ? "◷" : "";
  const kinds = [away && "away", compromised && "compromised", overlay.marked?.has(kme.name) && "marked", overlay.chosen === kme.name && "chosen"];
  const [x, y] = places[kme.name];
  const threshold = overlay.thresholds?.get(kme.name);
  return svg("a", { class: ["kme", ...kinds.filter(Boolean)].join(" "), href: `#map/${kme.name}`, "data-key": kme.name, "data-state": kme.state, transform: `translate(${x} ${y})`, "aria-label": `${kme.name}: ${kmeWords(kme)}${threshold ? `, ${threshold.text} needed` : ""}` },
    compromised ? svg("circle", { class: "ring", r: radius + 4 * unit, "stroke-width": 2.5 * unit }) : null,
    svg("circle", { class: "disc", r: radius, "stroke-width": 2.5 * unit }),
    inside ? svg("text", { class: "inside", "font-size": 1.2 * radius }, inside) : null,
    nameShown(kme.name, x, sizes.font),
    threshold ? svg("text", { class: `threshold${threshold.met ? " met" : ""}`, y: -radius - 7 * unit, "font-size": sizes.font, "stroke-width": 3 * unit }, threshold.text + (threshold.met ? " ✓" : "")) : null);
}

/** Return a name below its KME; a long one at the edge of the map begins, or ends, there. */
function nameShown(name, x, font) {
  const half = 0.3 * font * name.length;
  const edge = MARGIN_PX * unit;
  const over = x - half < -edge ? -edge - (x - half) : x + half > width + edge ? width + edge - (x + half) : 0;
  return svg("text", { class: "name", x: over, y: radius + 1.15 * font, "font-size": font, "stroke-width": 3 * unit }, name);
}

/** Say how a KME is. */
export function kmeWords(kme) {
  const parts = [kme.state];
  if (kme.lab_mode !== null) parts.push(`compromised in the lab: ${kme.lab_mode}`);
  if (kme.clock_off_s !== null) parts.push(`its clock is off by ${kme.clock_off_s} s`);
  return parts.join(", ");
}

function hopShown(hop, sizes) {
  const ends = way(hop.from, hop.to);
  const [p, q] = ends;
  const parts = [svg("line", { class: `hop ${hop.style}`, x1: p[0], y1: p[1], x2: q[0], y2: q[1], "stroke-width": 3.2 * unit })];
  if (hop.text) parts.push(sign("", between(ends, 0.5), hop.text, 0.9 * sizes.font));
  return svg("g", { "data-key": `${hop.from}>${hop.to}` }, parts);
}

/** Draw the network with what is to be seen on it; `overlay` has hops, thresholds and KMEs that stand out. */
export function drawMap(layout, network, overlay) {
  places = layout.kmes;
  const sizes = measure(layout);
  const hasRates = network.links.length <= 30 && unit < 1.7 && !overlay.hops && commonRate(network) === null;
  byId("map").classList.toggle("busy", Boolean(overlay.hops));
  show(byId("links"), network.links.map((link) => linkShown(link, overlay.chosen, sizes, hasRates)));
  show(byId("hops"), (overlay.hops ?? []).map((hop) => hopShown(hop, sizes)));
  show(byId("kmes"), network.kmes.map((kme) => kmeShown(kme, overlay, sizes)));
}

/** Draw shares on their ways: each with its hop, the part of it that it has gone, and a style. */
export function drawShares(shares) {
  show(byId("shares"), shares.map(({ from, to, part, style }) => {
    const [cx, cy] = between(way(from, to), part);
    return svg("circle", { class: `share ${style}`, cx, cy, r: 5.5 * unit, "stroke-width": 1.5 * unit });
  }));
}
