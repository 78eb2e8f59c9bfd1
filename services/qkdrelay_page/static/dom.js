// Elements, made and brought up to date in place. What comes from the network becomes text or an attribute, never markup.

const SVG = "http://www.w3.org/2000/svg";

function made(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== ""));
  return element;
}

/** Return an HTML element with attributes and children; strings are text. */
export const el = (name, attributes, ...children) => made(document.createElement(name), attributes, children);

/** Return an SVG element likewise. */
export const svg = (name, attributes, ...children) => made(document.createElementNS(SVG, name), attributes, children);

export const byId = (id) => document.getElementById(id);

/** Have `parent` show `children`, changing no more than has changed: focus, scroll and selection stay. */
export function show(parent, ...children) {
  const wanted = children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== "");
  follow(parent, wanted.map((child) => (child instanceof Node ? child : document.createTextNode(child))));
}

function follow(parent, wanted) {
  const keyed = new Map([...parent.childNodes].filter((node) => node.dataset?.key).map((node) => [node.dataset.key, node]));
  let at = parent.firstChild;
  for (const child of wanted) {
    const key = child.dataset?.key;
    let old = key ? keyed.get(key) : at;
    if (old && old !== at) parent.insertBefore(old, at);
    if (!old || !alike(old, child)) {
      if (old) old.replaceWith(child);
      else parent.insertBefore(child, at);
      at = child.nextSibling;
      continue;
    }
    update(old, child);
    at = old.nextSibling;
  }
  while (at) {
    const next = at.nextSibling;
    at.remove();
    at = next;
  }
}

const alike = (old, child) =>
  old.nodeType === child.nodeType && old.nodeName === child.nodeName && (old.dataset?.key ?? "") === (child.dataset?.key ?? "");

function update(old, child) {
  if (old.nodeType === Node.TEXT_NODE) {
    if (old.data !== child.data) old.data = child.data;
    return;
  }
  for (const { name } of [...old.attributes]) {
    if (!child.hasAttribute(name) && name !== "open") old.removeAttribute(name);
  }
  for (const { name, value } of child.attributes) {
    if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
  follow(old, [...child.childNodes]);
}

/** Return a table: rows of cells; a cell is text, an element, or {number: text}. */
export function table(caption, columns, rows) {
  const cell = (kind, content) =>
    content !== null && typeof content === "object" && "number" in content
      ? el(kind, { class: "number", scope: kind === "th" ? "col" : null }, content.number)
      : el(kind, { scope: kind === "th" ? "col" : null }, content);
  return el("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": caption },
    el("table", {}, el("caption", {}, caption),
      el("thead", {}, el("tr", {}, columns.map((column) => cell("th", column)))),
      el("tbody", {}, rows.map(({ key, cells }) => el("tr", { "data-key": key }, cells.map((content) => cell("td", content)))))));
}

/** Return a list of terms and what is said of them; what is null is left out. */
export const facts = (pairs) =>
  el("dl", {}, pairs.filter(([, value]) => value !== null && value !== undefined).map(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]));
