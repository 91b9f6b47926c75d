/**
 * Airflow's REST API as the person who looks, and the results that this browser has read before.
 *
 * Only what is public in all versions from 3.0 on is asked for. A task instance has a new id for each try, so what was
 * read under an id stays right.
 *
 * @typedef {import("./flow.js").Result} Result
 */
import { isFinished, number, readResult } from "./flow.js";

/** Where Airflow is, under whatever prefix. */
const ROOT = new URL("../", import.meta.url);

const OPERATORS = ["CustomerIOToSegmentOperator", "CustomerIOToWarehouseOperator"];
const OPTIONS = ["customerio_conn_id", "opens_and_clicks", "settling_time"]; // a subclass has these, too
const AT_ONCE = 4; // the API server also serves the tasks
const MOST = 1000; // results that are read one by one without being asked for
const PAGE = 1000;
const KEPT = 2000; // results of one task that are read, over several visits, and kept in the browser

/** A value of the browser's storage, which a browser may deny. */
export function stored(key) {
  try {
    return localStorage.getItem(key);
  } catch {
    return null;
  }
}

/** An answer that is not 200. */
export class Refusal extends Error {
  constructor(status, path) {
    super(`Airflow answered ${status} to ${path}`);
    this.status = status;
  }
}

/** The token of Airflow's UI, once a request was refused without it. */
let token;

/**
 * Ask with the session's cookie. Before Airflow 3.1.1 there is none, but a token: it is sent only after a 401, because
 * later versions leave an old one behind.
 */
async function ask(path, body) {
  await slot();
  try {
    return await answerTo(path, body);
  } finally {
    if (queue.length) queue.shift()();
    else free += 1;
  }
}

const queue = [];
let free = AT_ONCE;

/** Wait for one of the places for requests. A request that ends hands its place on. */
async function slot() {
  if (free) free -= 1;
  else await new Promise((resolve) => queue.push(resolve));
}

async function answerTo(path, body) {
  const url = new URL(`api/v2/${path}`, ROOT);
  const sent = token;
  let answer = await fetch(url, optionsOf(body));
  if (answer.status === 401 && !sent) {
    token ??= stored("token")?.replaceAll('"', "");
    if (token) answer = await fetch(url, optionsOf(body));
  }
  if (!answer.ok) throw new Refusal(answer.status, path.split("?")[0]);
  return answer.json();
}

function optionsOf(body) {
  const headers = { accept: "application/json" };
  if (token) headers.authorization = `Bearer ${token}`;
  if (!body) return { headers };
  return { method: "POST", body: JSON.stringify(body), headers: { ...headers, "content-type": "application/json" } };
}

/** All items of a list. `key` names them in the answer. */
async function list(path, key, body) {
  const items = [];
  for (;;) {
    const answer = await ask(path, { ...body, page_limit: PAGE, page_offset: items.length });
    items.push(...answer[key]);
    if (answer[key].length < PAGE) return items;
  }
}

const encoded = encodeURIComponent;
const iso = (moment) => new Date(moment).toISOString();

/** Ids of the DAGs with the tag `customerio`. There is no cheap public list of tasks over all DAGs. */
export async function taggedDags() {
  return (await ask("dags?tags=customerio&limit=100")).dags.map((dag) => dag.dag_id);
}

export async function dagOf(dagId) {
  return ask(`dags/${encoded(dagId)}`);
}

/** Ids of the tasks of a DAG that are ours. */
export async function tasksOf(dagId) {
  const { tasks } = await ask(`dags/${encoded(dagId)}/tasks`);
  return tasks.filter(isOurs).map((task) => task.task_id);
}

function isOurs({ operator_name: name, class_ref: ref, template_fields: fields }) {
  return OPERATORS.includes(ref?.class_name ?? name) || OPTIONS.every((option) => fields?.includes(option));
}

export function runsOf(dagId, since) {
  const body = { dag_ids: [dagId], run_after_gte: iso(since), order_by: "-run_after" };
  return list("dags/~/dagRuns/list", "dag_runs", body);
}

export function instancesOf(dagId, taskIds, since) {
  const body = { dag_ids: [dagId], task_ids: taskIds, run_after_gte: iso(since), order_by: "id" };
  return list("dags/~/dagRuns/~/taskInstances/list", "task_instances", body);
}

/** The newest run before a moment. */
export async function runBefore(dagId, moment) {
  const body = { dag_ids: [dagId], run_after_lte: iso(moment), order_by: "-run_after", page_limit: 1 };
  return (await ask("dags/~/dagRuns/list", body)).dag_runs[0] ?? null;
}

/** The page of Airflow's UI about a task in a run. */
export function pageOf(dagId, { runId, taskId, mapIndex }) {
  const task = taskId && `/tasks/${encoded(taskId)}${mapIndex >= 0 ? `/mapped/${mapIndex}` : ""}`;
  return new URL(`dags/${encoded(dagId)}/runs/${encoded(runId)}${task}`, ROOT).href;
}

/** Results of one task, kept in this browser: counts only. Any page of this origin can read them. */
class Kept {
  constructor(dagId, taskId) {
    this.key = `customerio-flow-1:${ROOT.pathname}:${dagId}:${taskId}`;
    this.results = readKept(this.key);
  }

  /** Those of this visit first: of the others, as many as there is room for. */
  save(instances) {
    const ids = new Set([...instances.map(({ id }) => id), ...this.results.keys()]);
    const known = [...ids].filter((id) => this.results.has(id)).slice(0, KEPT);
    const text = JSON.stringify(known.map((id) => [id, this.results.get(id)]));
    try {
      localStorage.setItem(this.key, text);
    } catch {
      // The browser's room for this origin is full: the next visit reads them again.
    }
  }
}

function readKept(key) {
  try {
    return new Map(JSON.parse(stored(key) ?? "[]"));
  } catch {
    return new Map();
  }
}

/**
 * Reads the results of a task: those that are kept, then those in asset events, then the others one by one. Those of
 * the days that are shown come first, and of these the newest. `results` holds what is there so far, by the id of the
 * task instance.
 */
export class Reader {
  /** @param {(instance: object) => boolean} isShown */
  constructor(dagId, taskId, instances, isShown) {
    this.dagId = dagId;
    this.taskId = taskId;
    const newest = instances.filter(isFinished).sort((one, other) => (one.run_after < other.run_after ? 1 : -1));
    const { true: shown = [], false: others = [] } = Object.groupBy(newest, isShown);
    this.instances = [...shown, ...others].slice(0, KEPT);
    this.note =
      shown.length > KEPT &&
      `Counts of the newest ${number(KEPT)} intervals are kept in this browser; the others are not read.`;
    this.kept = new Kept(dagId, taskId);
    this.results = this.kept.results;
    this.problem = "";
  }

  get unread() {
    return this.instances.filter(({ id }) => !this.results.has(id));
  }

  /** @param {() => void} drawSoon called after each answer */
  async read(drawSoon) {
    if (this.unread.length > 1) await this.readAssetEvents(drawSoon);
    const waiting = this.unread.slice(0, MOST);
    const work = async () => {
      for (let one; (one = waiting.shift()) && !this.problem; drawSoon()) await this.readXCom(one);
    };
    await Promise.all(Array.from({ length: AT_ONCE }, work));
    this.kept.save(this.instances);
  }

  /** A hundred results an answer, if the task has outlets and the person may read assets. */
  async readAssetEvents(drawSoon) {
    const successes = this.unread.filter(({ state }) => state === "success");
    const byKey = new Map(successes.map((one) => [keyOf(one.dag_run_id, one.map_index), one]));
    const oldest = successes.reduce((first, { start_date: start }) => (start < first ? start : first), "~");
    const path = `assets/events?source_dag_id=${encoded(this.dagId)}&source_task_id=${encoded(this.taskId)}`;
    for (let offset = 0; byKey.size; offset += 100) {
      const events = await eventsOf(`${path}&order_by=-timestamp&limit=100&offset=${offset}`);
      for (const event of events) this.takeEvent(event, byKey);
      drawSoon();
      if (events.length < 100 || events.at(-1).timestamp < oldest) return;
    }
  }

  takeEvent(event, byKey) {
    const key = keyOf(event.source_run_id, event.source_map_index);
    const instance = byKey.get(key);
    // An event from before the instance began is of a run that has been cleared since.
    if (!instance || Date.parse(event.timestamp) < Date.parse(instance.start_date)) return;
    const result = readResult(event.extra);
    if (result) this.results.set(instance.id, result);
    byKey.delete(key);
  }

  async readXCom({ id, dag_run_id: runId, map_index: mapIndex }) {
    const path = `dags/${encoded(this.dagId)}/dagRuns/${encoded(runId)}/taskInstances/${encoded(this.taskId)}`;
    try {
      const entry = await ask(`${path}/xcomEntries/return_value?map_index=${mapIndex}`);
      this.results.set(id, readResult(entry.value));
    } catch (error) {
      if (error.status === 404) this.results.set(id, null);
      else this.problem = error.status === 403 ? "You may not read XComs, so there are no counts." : error.message;
    }
  }
}

function keyOf(runId, mapIndex) {
  return `${mapIndex} ${runId}`;
}

async function eventsOf(path) {
  try {
    return (await ask(path)).asset_events;
  } catch {
    return [];
  }
}
