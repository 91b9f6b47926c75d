/**
 * The picture of one task, as an SVG and as a table, and the table of ages.
 *
 * @typedef {import("./flow.js").Piece} Piece
 * @typedef {import("./flow.js").Span} Span
 */
import { drawn, element, tableWith } from "./elements.js";
import {
  DAY,
  STATES,
  collectionsOf,
  isUncounted,
  isUnread,
  label,
  lineOf,
  listOf,
  number,
  rowOf,
  sentBy,
  total,
  wordsOf,
} from "./flow.js";

const ROW = 34; // pixels
const BAR = 26;

/** @param {Piece[]} pieces */
function rowsOf(pieces) {
  const collections = collectionsOf(pieces).map((name) => ({
    name,
    kind: "events",
    ...rowOf(pieces, ({ events }) => events[name] ?? 0),
  }));
  const refused = { name: "Refused", kind: "refused", ...rowOf(pieces, ({ refused }) => total(refused)) };
  const skipped = { name: "Skipped", kind: "skipped", ...rowOf(pieces, ({ skipped }) => total(skipped)) };
  return [...collections, refused, skipped];
}

/** The picture of one task. Its elements stay while results come in, so that the keyboard stays where it is. */
export class Picture {
  /**
   * @param {string} name  for those who can't see it
   * @param {(piece: Piece) => void} open  called for a click, or Enter, on an interval
   */
  constructor(name, open) {
    this.open = open;
    this.at = -1;
    this.labels = element("div", { class: "labels" });
    this.scales = element("div", { class: "scales" });
    this.ticks = element("div", { class: "ticks" });
    this.cursor = element("div", { class: "cursor", hidden: "" });
    this.canvas = element("div", {
      class: "canvas",
      tabindex: "0",
      role: "application",
      "aria-label": `Intervals of ${name}`,
    });
    this.line = element(
      "p",
      { class: "line", "aria-live": "polite" },
      "Point at an interval, or use the arrow keys. Enter opens its run.",
    );
    const box = element("div", { class: "picture" }, this.labels, this.canvas, this.scales, element("div"), this.ticks);
    this.node = element("div", {}, box, this.line);
    new ResizeObserver(() => this.drawn()).observe(this.canvas);
    this.canvas.addEventListener("pointermove", (event) => this.point(event.clientX));
    this.canvas.addEventListener("click", () => this.pieces[this.at] && this.open(this.pieces[this.at]));
    this.canvas.addEventListener("keydown", (event) => this.press(event));
  }

  /** @param {Piece[]} pieces @param {Span} axis */
  draw(pieces, axis) {
    Object.assign(this, { pieces, axis, rows: rowsOf(pieces) });
    const scales = this.rows.map(({ most, sum }) =>
      element("div", { title: `${number(sum)} in all` }, `max ${number(most)}`),
    );
    this.labels.replaceChildren(
      element("div", {}, "Intervals"),
      ...this.rows.map(({ name }) => element("div", {}, name)),
    );
    this.scales.replaceChildren(element("div"), ...scales);
    this.ticks.replaceChildren(...ticksOf(axis));
    this.drawn();
    if (this.at >= 0) this.show(this.at);
  }

  drawn() {
    if (!this.pieces) return; // only made so far
    this.canvas.replaceChildren(svgOf(this.pieces, this.rows, this.axis, this.canvas.clientWidth || 800), this.cursor);
  }

  /** Say what is known of an interval, and frame it. */
  show(i) {
    const piece = this.pieces[i];
    if (!piece) return;
    this.at = i;
    const [from, to] = [piece.start, piece.end].map((moment) =>
      Math.min(100, Math.max(0, 100 * partOf(this.axis, moment))),
    );
    this.cursor.hidden = false;
    this.cursor.style.left = `${from}%`;
    this.cursor.style.width = `${to - from}%`;
    this.line.textContent = lineOf(piece);
  }

  point(clientX) {
    const { left, width } = this.canvas.getBoundingClientRect();
    const moment = this.axis.start + ((clientX - left) / width) * (this.axis.end - this.axis.start);
    this.show(this.pieces.findIndex(({ start, end }) => start <= moment && moment < end));
  }

  press(event) {
    const last = this.pieces.length - 1;
    const next = {
      ArrowLeft: this.at < 0 ? last : this.at - 1,
      ArrowRight: this.at < 0 ? last : this.at + 1,
      Home: 0,
      End: last,
    }[event.key];
    if (event.key === "Enter" && this.pieces[this.at]) this.open(this.pieces[this.at]);
    if (next === undefined) return;
    event.preventDefault();
    this.show(next);
  }
}

function partOf({ start, end }, moment) {
  return (moment - start) / (end - start);
}

function svgOf(pieces, rows, axis, width) {
  const height = ROW * (rows.length + 1);
  const x = (moment) => partOf(axis, moment) * width;
  const svg = drawn("svg", { width, height, viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" });
  const add = (name, kind, d) => svg.append(drawn("path", { class: `${name} ${kind}`, d }));
  for (const state of STATES) {
    const those = pieces.filter((piece) => piece.state === state);
    add("cell", state, blocks(those, x, state === "waiting" ? 18 : 4, 30));
    if (state === "refused") add("mark", state, blocks(those, x, 4, 11));
    else if (state !== "done") add("band", state, blocks(those, x, 0, height));
  }
  const unread = pieces.filter((piece) => isUnread(piece) || isUncounted(piece));
  add("unread", "", blocks(unread, x, ROW, height));
  rows.forEach((row, i) => {
    const bottom = ROW * (i + 2) - 2;
    svg.append(drawn("line", { class: "base", x1: 0, x2: width, y1: bottom + 0.5, y2: bottom + 0.5 }));
    add("bars", row.kind, pathOf(row, x, bottom));
  });
  return svg;
}

/** One path for all bars of a row. A count above zero is always visible. */
function pathOf({ bars, most }, x, bottom) {
  const round = (number) => Math.round(number * 10) / 10;
  return bars
    .map(({ start, end, value }) => {
      const [left, right] = [x(start), Math.max(x(end) - 0.5, x(start) + 0.5)];
      const top = bottom - Math.max(1, (value / most) * BAR);
      return `M${round(left)} ${bottom}V${round(top)}H${round(right)}V${bottom}z`;
    })
    .join("");
}

/** One path for all pieces of a state. */
function blocks(pieces, x, top, bottom) {
  const gap = pieces.length > 200 ? 0 : 1;
  const least = pieces[0]?.state === "failed" || pieces[0]?.state === "missing" ? 4 : 1; // pixels: these must be seen
  return pieces
    .map(({ start, end }) => {
      const [left, right] = [x(start), Math.max(x(end) - gap, x(start) + least)].map((at) => at.toFixed(1));
      return `M${left} ${top}H${right}V${bottom}H${left}z`;
    })
    .join("");
}

/** Four dates under the picture. */
function ticksOf({ start, end }) {
  const length = end - start > 4 * DAY ? 10 : 16; // of the text: a date, or a date and a time
  const moments = [0, 1, 2, 3].map((i) => new Date(start + ((end - start) * i) / 4));
  return moments.map((moment) => element("span", {}, moment.toISOString().slice(0, length).replace("T", " ")));
}

// Tables

/** The picture as a table, newest first. @param {(piece: Piece) => HTMLElement | string} linked */
export function tableOf(pieces, linked) {
  const names = collectionsOf(pieces);
  const head = ["Interval (UTC)", "State", ...names, "Refused", "Skipped"];
  const rows = pieces.toReversed().map((piece) => {
    const result = sentBy(piece);
    const counted = (find) => (result ? find(result) : isUnread(piece) ? "not read" : "-");
    return [
      linked(piece, label(piece)),
      wordsOf(piece),
      ...names.map((name) => counted(({ events }) => number(events[name] ?? 0))),
      counted(({ refused }) => listOf(refused) || "0"),
      counted(({ skipped }) => listOf(skipped) || "0"),
    ];
  });
  return tableWith(head, rows);
}

/** The second picture: for each collection, what each look-back finds. */
export function agesTable(ages) {
  const known = ages.length ? Object.keys(ages[0].found) : [];
  const used = known.filter((age, i) => i === 0 || ages.some(({ found }) => found[known[i - 1]] < 1));
  const rows = ages.map(({ name, sum, found }) => [name, number(sum), ...used.map((age) => shareOf(found[age]))]);
  return tableWith(["Collection", "Events", ...used.map((age) => (age === "older" ? "older" : `< ${age}`))], rows);
}

function shareOf(part) {
  const percent = part < 1 ? Math.min(99.9, Math.round(part * 1000) / 10) : 100;
  const bar = element("span", { class: "share" });
  bar.style.width = `${percent}%`;
  return element("span", { class: "shared" }, bar, `${percent} %`);
}
