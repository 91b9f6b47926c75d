/**
 * The page: which DAGs and days, the picture of each task, links, and light or dark as Airflow is.
 *
 * @typedef {import("./flow.js").Piece} Piece
 * @typedef {import("./flow.js").Span} Span
 */
import {
  Reader,
  Refusal,
  dagOf,
  instancesOf,
  pageOf,
  runBefore,
  runsOf,
  stored,
  taggedDags,
  tasksOf,
} from "./airflow.js";
import {
  DAY,
  STATES,
  agesOf,
  collectionsOf,
  dueOf,
  isUncounted,
  isUnread,
  jobsOf,
  label,
  lineOf,
  listOf,
  number,
  piecesOf,
  rowOf,
  sentBy,
  sentencesOf,
  spanOf,
  total,
  within,
  wordsOf,
} from "./flow.js";

const MOST_DAGS = 10; // at once, if none is chosen
const MOST_LINKS = 12; // of one sentence; the table has all
const DRAW_EVERY = 400; // milliseconds
const SVG = "http://www.w3.org/2000/svg";
const ROW = 34; // pixels
const BAR = 26;

const asked = new URLSearchParams(location.search);
const days = Number(asked.get("days")) || 90;
const inFrame = window.parent !== window;
const find = (selector) => document.querySelector(selector);

// Light and dark

const systemDark = matchMedia("(prefers-color-scheme: dark)");

function applyTheme() {
  const chosen = stored("theme");
  const dark = chosen === "dark" || (chosen !== "light" && systemDark.matches);
  document.documentElement.dataset.theme = dark ? "dark" : "light";
}

applyTheme();
addEventListener("storage", applyTheme); // the page around a frame changes it there
systemDark.addEventListener("change", applyTheme);

// Links

/** A link to a page of Airflow. */
function linkTo(url, text) {
  const link = element("a", { href: url }, text);
  link.addEventListener("click", (event) => {
    if (!inFrame) return;
    event.preventDefault();
    visit(url);
  });
  return link;
}

/** A frame of Airflow's may not open a page by itself, but being of the same origin it can click a link around it. */
function visit(url) {
  if (!inFrame) return location.assign(url);
  const link = parent.document.createElement("a");
  link.href = url;
  parent.document.body.append(link);
  link.click();
  link.remove();
}

/** Show the page with other parameters. */
function go(changes) {
  const params = new URLSearchParams(location.search);
  for (const [key, value] of Object.entries(changes)) {
    params.delete(key);
    for (const one of [value].flat()) if (one) params.append(key, one);
  }
  location.search = params;
}

// Elements

/** An element with attributes and children. A text becomes a text, never markup. */
function element(name, attributes = {}, ...children) {
  return filled(document.createElement(name), attributes, children);
}

function drawn(name, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, name), attributes, children);
}

function filled(node, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

// The picture of one task

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
class Picture {
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
function tableOf(pieces, linked) {
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

function tableWith(head, rows) {
  const body = rows.map((row) => element("tr", {}, ...row.map((cell) => element("td", {}, cell))));
  const top = element("tr", {}, ...head.map((cell) => element("th", { scope: "col" }, cell)));
  return element(
    "div",
    { class: "scroll" },
    element("table", {}, element("thead", {}, top), element("tbody", {}, ...body)),
  );
}

/** The second picture: for each collection, what each look-back finds. */
function agesTable(ages) {
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

// One task

/** One task of a DAG: what Airflow knows of it, and its part of the page. */
class Task {
  constructor(dag, taskId, runs, instances, before, period) {
    Object.assign(this, { dag, runs, before });
    this.next = spanOf(dag.next_dagrun_data_interval_start, dag.next_dagrun_data_interval_end);
    this.instances = instances.filter((instance) => instance.task_id === taskId);
    const spans = new Map(
      runs.map((run) => [run.dag_run_id, spanOf(run.data_interval_start, run.data_interval_end)]),
    );
    const isShown = ({ dag_run_id: runId }) => {
      const span = spans.get(runId);
      return !span || (span.start < period.end && span.end > period.start);
    };
    this.reader = new Reader(dag.dag_id, taskId, this.instances, isShown);
    const name = (this.name = taskId === dag.dag_id ? taskId : `${dag.dag_id}, task ${taskId}`);
    this.picture = new Picture(name, ({ job }) => job && visit(this.url(job)));
    this.words = element("ul", { class: "words" });
    this.button = element("button", { "aria-expanded": "false" }, "Table");
    this.button.addEventListener("click", () => this.toggleTable());
    this.table = element("div");
    this.section = element("section", { "aria-label": name }, element("h2", {}, name), this.words);
  }

  get isIdle() {
    return !this.pieces.length && !this.homeless.length;
  }

  /** True if a run is due, nothing holds it up, and no other run made up for it. */
  get isLate() {
    const covered = this.pieces.findLast(({ job }) => job)?.end ?? 0;
    return this.due?.state === "missing" && this.due.start >= covered;
  }

  /** Join what is known by now. */
  settle(period) {
    const jobs = jobsOf(this.runs, this.instances, this.reader.results);
    this.homeless = jobs.filter((job) => !job.span);
    this.due = dueOf(this.dag, this.runs, jobs, Date.now());
    const known = { start: this.before ? period.start : undefined, next: this.next };
    this.pieces = within(piecesOf(jobs, { ...known, due: this.dag.is_paused ? null : this.due }), period);
  }

  draw(period, axis) {
    const sentences = sentencesOf(this.pieces, this.homeless).map((sentence) => this.sentence(sentence));
    update(this.words, [...sentences, ...this.notes(period).map((note) => element("li", {}, note))]);
    if (!this.pieces.length) return;
    if (!this.picture.node.isConnected) this.section.append(this.picture.node, this.button, this.table);
    this.picture.draw(this.pieces, axis);
    if (this.button.ariaExpanded === "true") this.drawTable();
  }

  toggleTable() {
    this.button.ariaExpanded = String(this.button.ariaExpanded !== "true");
    if (this.button.ariaExpanded === "true") this.drawTable();
    else this.table.replaceChildren();
  }

  drawTable() {
    const linked = ({ job }, text) => (job ? linkTo(this.url(job), text) : text);
    this.table.replaceChildren(tableOf(this.pieces, linked));
  }

  url(job) {
    return pageOf(this.dag.dag_id, job);
  }

  sentence({ state, head, items }) {
    const shown = items
      .slice(-MOST_LINKS)
      .flatMap(({ text, job }, i) => [i ? ", " : ": ", job ? linkTo(this.url(job), text) : text]);
    const more = items.length > MOST_LINKS ? `, and ${items.length - MOST_LINKS} earlier` : "";
    return element("li", { class: state }, element("b", {}, head), ...shown, more);
  }

  /** What else to know: where knowledge ends, a run that is due, counts that can't be read. */
  notes(period) {
    const first = this.pieces.find(({ job }) => job)?.start;
    const why = this.dag.is_paused ? "the DAG is paused." : "Airflow has not made it. Does its scheduler run?";
    const { note, problem, unread } = this.reader;
    return [
      first === undefined && "No run is known in these days.",
      !this.before &&
        first > period.start &&
        `Airflow keeps no run from before ${new Date(first).toISOString().slice(0, 10)}.`,
      this.isLate && this.due.start < period.end && `The run of ${label(this.next)} is due, but ${why}`,
      note,
      problem && `${problem} Not read: ${unread.length}.`,
    ].filter(Boolean);
  }
}

/** Replace only the lines that changed, so that a link keeps the focus while results come in. */
function update(list, lines) {
  lines.forEach((line, i) => {
    const old = list.children[i];
    if (!old) list.append(line);
    else if (old.outerHTML !== line.outerHTML) old.replaceWith(line);
  });
  while (list.children.length > lines.length) list.lastChild.remove();
}

// All

async function tasksOfDag(id, period) {
  const taskId = asked.getAll("dag_id").length === 1 && asked.get("task_id");
  const ours = taskId ? Promise.resolve([taskId]) : tasksOf(id);
  const [taskIds, instances, runs, dag, before] = await Promise.all([
    ours,
    ours.then((ids) => (ids.length ? instancesOf(id, ids, period.start) : [])), // the longest, so it begins early
    runsOf(id, period.start),
    dagOf(id),
    runBefore(id, period.start),
  ]);
  return taskIds.map((one) => new Task(dag, one, runs, instances, before, period));
}

const REFUSALS = { 403: "you may not read it", 404: "Airflow does not know it" };

/** The tasks of all DAGs, and a line for each DAG that can't be read. */
async function tasksOfAll(ids, period) {
  const answers = await Promise.allSettled(ids.map((id) => tasksOfDag(id, period)));
  const refused = answers.flatMap(({ reason }, i) => {
    if (!reason) return [];
    if (!(reason instanceof Refusal && REFUSALS[reason.status])) throw reason;
    return [`DAG ${ids[i]}: ${REFUSALS[reason.status]}.`];
  });
  return { tasks: answers.flatMap(({ value }) => value ?? []), refused };
}

/** What to show, and of which days: up to now, or up to the newest run if there is none in these days. */
async function tasksAndPeriod(ids) {
  const until = Date.parse(asked.get("until"));
  const end = until ? until + DAY : Date.now();
  const period = { start: end - days * DAY, end };
  const { tasks, refused } = await tasksOfAll(ids, period);
  const ends = tasks.map(({ before }) => Date.parse(before?.data_interval_end ?? before?.run_after));
  if (until || tasks.some(({ runs }) => runs.length) || !ends.some(Number.isFinite))
    return { tasks, refused, period };
  period.end = Math.max(...ends.filter(Number.isFinite));
  period.start = period.end - days * DAY;
  return { ...(await tasksOfAll(ids, period)), period };
}

function draw(all, period) {
  for (const task of all) task.settle(period);
  const tasks = asked.has("dag_id") ? all : all.filter(({ isIdle }) => !isIdle);
  for (const task of all) task.section.hidden = !tasks.includes(task);
  const idle = all.filter(({ section }) => section.hidden).map(({ name }) => name);
  find("#idle").hidden = !idle.length;
  find("#idle").textContent = `No run in these days: ${idle.join(", ")}.`;
  const starts = tasks.map(({ before, pieces }) => (before ? period.start : (pieces[0]?.start ?? period.end)));
  const start = Math.min(...starts);
  const axis = { start: start < period.end ? Math.max(start, period.start) : period.start, end: period.end };
  for (const task of tasks) task.draw(period, axis);
  const ages = agesOf(tasks.flatMap(({ pieces }) => pieces));
  find("#ages").hidden = !ages.length;
  find("#ages div").replaceChildren(agesTable(ages));
}

async function show() {
  const chosen = asked.getAll("dag_id");
  const tagged = taggedDags();
  tagged.catch(() => []).then((names) => offer(names, chosen));
  const ids = chosen.length ? chosen : (await tagged).slice(0, MOST_DAGS);
  const left = !chosen.length && (await tagged).length > MOST_DAGS && (await tagged).length;
  if (!ids.length) return say("No DAG has the tag customerio. Choose one by its name under DAGs.");
  const { tasks, refused, period } = await tasksAndPeriod(ids);
  if (!tasks.length) return say(...(refused.length ? refused : ["No task here is one of this provider's operators."]));
  control(period);
  say(...refused);
  find("#tasks").append(...tasks.map(({ section }) => section));
  const cut = `${ids.length} of ${left} DAGs are shown. Choose others under DAGs.`;
  if (left) find("#tasks").append(element("p", {}, cut));
  find("#tasks").append(element("p", { id: "idle", hidden: "" }));
  draw(tasks, period);
  let timer = 0;
  const drawSoon = () => (timer ||= setTimeout(() => (draw(tasks, period), (timer = 0)), DRAW_EVERY));
  for (const task of tasks) await task.reader.read(drawSoon);
  clearTimeout(timer);
  draw(tasks, period);
}

function say(...lines) {
  find("#tasks").replaceChildren(...lines.map((line) => element("p", { class: "problem" }, line)));
}

function offer(tagged, chosen) {
  const names = [...new Set([...tagged, ...chosen])];
  const boxes = names.map((name) => {
    const box = element("input", { type: "checkbox", name: "dag_id", value: name });
    box.checked = (chosen.length ? chosen : tagged.slice(0, MOST_DAGS)).includes(name);
    return element("label", {}, box, name);
  });
  find("#dags").replaceChildren(...boxes);
  find("#choice form").addEventListener("submit", (event) => {
    event.preventDefault();
    const form = new FormData(event.target);
    go({ dag_id: [...form.getAll("dag_id"), form.get("other").trim()], task_id: "" });
  });
}

/** The buttons for other days, which leave out none in between. What ends now has no `until`. */
function control({ start, end }) {
  const dayOf = (moment) => new Date(moment).toISOString().slice(0, 10);
  const later = end + days * DAY;
  find("#earlier").addEventListener("click", () => go({ until: dayOf(start - 1) }));
  find("#later").addEventListener("click", () => go({ until: later < Date.now() ? dayOf(later - DAY) : "" }));
}

find("#back").hidden = inFrame;
find("#reload").addEventListener("click", () => location.reload());
for (const button of document.querySelectorAll("[data-days]")) {
  button.setAttribute("aria-pressed", Number(button.dataset.days) === days);
  button.addEventListener("click", () => go({ days: button.dataset.days }));
}
show()
  .catch((error) => {
    if (error instanceof Refusal && error.status === 401)
      say("You are not signed in. Sign in to Airflow, and load this page again.");
    else if (error instanceof Refusal && error.status === 403) say("You may not read these DAGs and their runs.");
    else say(`The picture can't be drawn: ${error.message}`);
  })
  .finally(() => find("#tasks").setAttribute("aria-busy", "false"));
