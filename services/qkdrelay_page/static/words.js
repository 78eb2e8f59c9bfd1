// Numbers and states in words.

export const counted = (count, noun) => `${count} ${noun}${count === 1 ? "" : "s"}`;

export function seconds(value) {
  if (value === null || value === undefined) return "";
  if (value < 1) return `${Math.round(value * 1000)} ms`;
  if (value < 60) return `${value < 10 ? value.toFixed(1) : Math.round(value)} s`;
  if (value < 3600) return `${Math.round(value / 60)} min`;
  return value < 86400 ? `${Math.round(value / 3600)} h` : `${Math.round(value / 86400)} d`;
}

const scaled = (value, base, units) => {
  let power = 0;
  while (value >= base && power < units.length - 1) {
    value /= base;
    power += 1;
  }
  return `${value >= 100 || power === 0 ? Math.round(value) : value.toFixed(1)} ${units[power]}`;
};
export const bytes = (value) => (value === null ? "?" : scaled(value, 1024, ["B", "KiB", "MiB", "GiB"]));
export const rate = (value) => (value === null ? "?" : scaled(value, 1000, ["bit/s", "kbit/s", "Mbit/s", "Gbit/s"]));
export const percent = (level) => (level === null ? "?" : `${Math.floor(level * 100)} %`);
export const moment = (at) => new Date(at * 1000).toLocaleTimeString([], { hour12: false });
export const named = (names) =>
  names.length < 2 ? names.join("") : `${names.slice(0, -1).join(", ")} and ${names[names.length - 1]}`;
export const styleOf = (state) => ({ confirmed: "good", failed: "bad" })[state] ?? "warn";
export const linkName = (pair) => (Array.isArray(pair) ? pair.join(" - ") : pair);

/** Split a text at its `code` spans: every second part is one. */
export const spans = (text) => text.split("`");

const REASONS = { "link.down": "the link is down", "link.key_exhausted": "the link has no key left", "link.backlog": "what was sent before is not taken in" };

/** Say why a share waits. */
export const reasonOf = (reason) => REASONS[reason] ?? reason;
