/** The page: which DAGs and days, the tasks and what is said of them, and light or dark as Airflow is. */
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
import { element, inFrame, linkTo, visit } from "./elements.js";
import { DAY, agesOf, dueOf, jobsOf, label, piecesOf, sentencesOf, spanOf, within } from "./flow.js";
import { Picture, agesTable, tableOf } from "./picture.js";

const MOST_DAGS = 10; // at once, if none is chosen
const MOST_LINKS = 12; // of one sentence; the table has all
const DRAW_EVERY = 400; // milliseconds

const asked = new URLSearchParams(location.search);
const days = Number(asked.get("days")) || 90;
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

/** Show the page with other parameters. */
function go(changes) {
  const params = new URLSearchParams(location.search);
  for (const [key, value] of Object.entries(changes)) {
    params.delete(key);
    for (const one of [value].flat()) if (one) params.append(key, one);
  }
  location.search = params;
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
