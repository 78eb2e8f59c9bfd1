// The page: keeps what the server sends, and shows the view that the address names (#map, #relay/ID, #plan/a/b ...).

import { byId, el, show } from "./dom.js";
import { commonRate, drawMap, drawShares } from "./map.js";
import { asked, marksOf, planDetails, planForm, planOverlay } from "./plan.js";
import { Relay, relayDetails } from "./relay.js";
import { attentionView, detailsOf, relaysList, suppliesView } from "./views.js";

const PACE = 0.9; // steps of a replay in a second
const TRAVEL_S = 0.7; // that a share is drawn on its way when it is heard to have come over a link
const LINGER_S = 4; // that the latest relay is shown when it is over, before a newer one is
const still = matchMedia("(prefers-reduced-motion: reduce)");

const said = {}; // by section, what the server sent last
let stream = null;
let watched = null; // the relay that the stream is asked for
let relay = null;
let step = null; // of a replay; null: the relay as it is now
let playing = false;
let doneAt = 0;
let travels = new Map(); // by route, when the share was seen to have come
let answer = null; // to a question for a plan
let question = null;
let version = null;

function view() {
  const [path, query] = (location.hash.slice(1) || "map").split("?");
  const [name, ...rest] = path.split("/").map(decodeURIComponent);
  return { name, rest, query: Object.fromEntries(new URLSearchParams(query ?? "")) };
}

// What comes from the server

function listen() {
  const wanted = view().name === "relay" ? relayWanted() : null;
  if (stream && stream.readyState !== EventSource.CLOSED && watched === wanted) return;
  stream?.close();
  if (watched !== wanted) forgetRelay();
  watched = wanted;
  stream = new EventSource(wanted ? `/events?relay=${encodeURIComponent(wanted)}` : "/events");
  stream.onopen = () => stand("live", true);
  stream.onerror = () => {
    stand("reconnecting", false);
    if (stream.readyState === EventSource.CLOSED) setTimeout(listen, 3000);
  };
  for (const section of ["hello", "layout", "network", "relays", "relay", "supplies", "attention", "trouble"]) {
    stream.addEventListener(section, (event) => take(section, JSON.parse(event.data)));
  }
}

function stand(text, isOn) {
  show(byId("standing"), text);
  byId("standing").classList.toggle("off", !isOn);
}

function relayWanted() {
  const name = view().rest[0];
  if (name && name !== "latest") return name;
  const newest = said.relays?.relays.find((each) => !each.supply)?.relay_id ?? null;
  const isOver = !relay || (relay.isDecided && !playing && step === null && performance.now() - doneAt > LINGER_S * 1000);
  return watched && !isOver ? watched : newest;
}

function forgetRelay() {
  relay = null;
  step = null;
  playing = false;
  travels = new Map();
  delete said.relay;
}

function take(section, content) {
  said[section] = content;
  if (section === "hello") {
    if (version !== null && version !== content.version) location.reload();
    version = content.version;
    show(byId("network"), content.network);
    show(byId("version"), `qkdrelay ${content.version}`);
  } else if (section === "relay") {
    takeRelay(content);
  } else if (section === "trouble") {
    byId("trouble").hidden = content === null;
    show(byId("trouble"), content?.text ?? "");
    byId("main").classList.toggle("stale", content !== null);
  } else if (section === "attention") {
    const now = content.items.filter((item) => item.at === null).length;
    show(byId("attention-count"), now ? el("span", {}, String(now), el("span", { class: "skip" }, " now")) : "");
  }
  draw();
}

function takeRelay(content) {
  if (content.refused || content.show.relay_id !== watched) return;
  const before = relay;
  relay = new Relay(content);
  if (before && !still.matches) {
    const had = new Set(before.nodes.filter((node) => node.seen).map((node) => node.key));
    for (const node of relay.nodes) {
      if (node.seen && node.depth > 0 && !had.has(node.key)) travels.set(node.key, performance.now());
    }
  } else if (!before && !still.matches && relay.isDecided && (view().rest[0] ?? "latest") === "latest") {
    play(true);
  }
  if (relay.isDecided && !before?.isDecided) doneAt = performance.now();
  move();
}

// Drawing

function draw() {
  const { name, rest, query } = view();
  for (const link of document.querySelectorAll("#views a")) {
    if (link.getAttribute("href").slice(1).split("/")[0] === name) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  if (said.network) byId("lab").hidden = !said.network.lab;
  const isTable = name === "supplies" || name === "attention";
  byId("stage").hidden = byId("side").hidden = isTable;
  byId("whole").hidden = !isTable;
  byId("replay").hidden = name !== "relay" || !relay;
  document.title = `${{ map: "Map", relay: "Relay", supplies: "Supplies", attention: "Attention", plan: "Plan" }[name] ?? "Map"} - ${said.hello?.network ?? "qkdrelay"}`;
  if (isTable) {
    const content = said[name];
    show(byId("whole"), content ? (name === "supplies" ? suppliesView : attentionView)(content) : el("p", {}, "Waiting for the coordinator."));
    return;
  }
  if (!said.network || !said.layout) {
    show(byId("side"), el("p", {}, "Waiting for the coordinator."));
    return;
  }
  if (name === "relay") return drawRelay();
  if (name === "plan") return drawPlan(rest, query);
  const details = rest[0] ? detailsOf(rest[0], said.network, said.supplies) : null;
  drawMap(said.layout, said.network, { chosen: rest[0] });
  drawShares([]);
  legend(["● healthy", "? silent", "! compromised (lab)", "◷ clock off", "green: key there is", "✕ down", "○ dry", commonRate(said.network) ? `each link ${commonRate(said.network)}` : ""].filter(Boolean));
  show(byId("side"), details, said.relays ? relaysList(said.relays) : null);
}

function legend(entries) {
  show(byId("legend"), entries.map((entry) => el("li", {}, entry)));
}

function drawRelay() {
  legend(["2 of 3: shares needed", "✓ met", "1/1: shares that crossed, planned", "dashed: not yet", "orange: waiting", "red: false or disputed"]);
  if (!relay) {
    drawMap(said.layout, said.network, {});
    drawShares([]);
    const refused = said.relay?.refused;
    show(byId("side"), refused ? el("p", { class: "bad" }, refused) : el("p", {}, watched ? "Waiting for it." : "No relay yet."), said.relays ? relaysList(said.relays, watched) : null);
    return;
  }
  const at = step ?? (relay.isDecided ? relay.last : relay.depth);
  drawMap(said.layout, said.network, relay.overlay(at));
  byId("step").max = relay.last;
  if (document.activeElement !== byId("step") || playing) byId("step").value = at;
  byId("step").setAttribute("aria-valuetext", relay.stepText(at));
  show(byId("step-text"), step === null && !relay.isDecided ? `now: ${relay.show.state}` : relay.stepText(at));
  byId("play").setAttribute("aria-pressed", String(playing));
  show(byId("play"), playing ? "Pause" : "Replay");
  show(byId("side"), relayDetails(relay), said.relays ? relaysList(said.relays, watched) : null);
  drawTravelling(at);
}

function drawTravelling(at) {
  const now = performance.now();
  const dots = relay.dots(at);
  if (step === null) {
    for (const node of relay.nodes) {
      const since = travels.get(node.key);
      const part = (now - since) / 1000 / TRAVEL_S;
      if (part < 1) dots.push({ from: node.parent.kme, to: node.kme, part, style: relay.isGood(node) ? "" : "false" });
      else travels.delete(node.key);
    }
  }
  drawShares(dots);
}

// A replay

let moving = false;
let last = 0;

function move() {
  if (moving) return;
  moving = true;
  last = performance.now();
  requestAnimationFrame(frame);
}

function frame(now) {
  moving = false;
  if (!relay || view().name !== "relay") return;
  const before = step;
  if (playing) {
    step = Math.min(relay.last, (step ?? 0) + ((now - last) / 1000) * PACE);
    if (step >= relay.last) {
      playing = false;
      step = null;
      doneAt = now;
    }
  }
  if (step === null ? before !== null || !travels.size : still.matches || Math.floor(step) !== Math.floor(before ?? -1)) drawRelay();
  else {
    byId("step").value = step ?? byId("step").value;
    drawTravelling(step ?? (relay.isDecided ? relay.last : relay.depth));
  }
  last = now;
  if (playing || travels.size) {
    moving = true;
    requestAnimationFrame(frame);
  }
}

function play(isOn) {
  playing = isOn;
  if (isOn && (step === null || step >= relay.last)) step = 0;
  move();
}

// A plan

function drawPlan(rest, query) {
  const now = { source: rest[0], target: rest[1], ...query };
  const key = JSON.stringify(now);
  if (question !== key) {
    question = key;
    answer = null;
    // Made anew: a choice that was made before would stay.
    byId("side").replaceChildren(el("h2", {}, "A plan, and what it withstands"), planForm(said.network, now), el("div", { id: "answer", "aria-live": "polite" }));
    if (now.source && now.target) askPlan(now, key);
  }
  drawMap(said.layout, said.network, answer?.taken ? planOverlay(answer, marksOf()) : {});
  drawShares([]);
  legend(["2 of 3: shares needed", "red: marked in the list", "! compromised", "? down"]);
}

async function askPlan(now, key) {
  show(byId("answer"), el("p", {}, "Planning."));
  let found;
  try {
    const response = await fetch(`/plan?${new URLSearchParams(now)}`);
    found = await response.json();
  } catch {
    found = { message: "the server does not answer", hint: null };
  }
  if (question !== key) return;
  answer = found;
  show(byId("answer"), found.taken ? planDetails(found) : el("p", { class: "bad" }, found.message + (found.hint ? ` (${found.hint})` : "")));
  draw();
}

// What people do

addEventListener("hashchange", () => {
  question = null;
  listen();
  draw();
  byId("main").focus({ preventScroll: true });
});
addEventListener("resize", draw);
addEventListener("submit", (event) => {
  event.preventDefault();
  const to = asked(event.target);
  if (to === location.hash) question = null;
  location.hash = to;
  draw();
});
byId("side").addEventListener("click", (event) => {
  const button = event.target.closest("[data-mark]");
  if (!button) return;
  const isOn = button.getAttribute("aria-pressed") !== "true";
  for (const other of byId("side").querySelectorAll("[data-mark]")) other.setAttribute("aria-pressed", "false");
  button.setAttribute("aria-pressed", String(isOn));
  draw();
});
byId("play").addEventListener("click", () => {
  play(!playing);
  drawRelay();
});
byId("step").addEventListener("input", () => {
  playing = false;
  step = Number(byId("step").value);
  if (step >= relay.last) step = null;
  drawRelay();
});
setInterval(() => {
  if (view().name === "relay" && (view().rest[0] ?? "latest") === "latest") listen();
}, 500);
listen();
draw();
