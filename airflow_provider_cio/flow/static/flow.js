/**
 * From runs to intervals: their states, what is missing, sums, and all of that in words.
 *
 * Nothing here asks a server, draws, or looks at the clock. Times are milliseconds since 1970, and a span contains its
 * start but not its end.
 *
 * @typedef {{start: number, end: number}} Span
 * @typedef {Record<string, number>} Counts
 * @typedef {{span: Span, events: Counts, skipped: Counts, refused: Counts, ages: Record<string, Counts>,
 *   preview: boolean}} Result
 * @typedef {"done" | "refused" | "waiting" | "failed" | "missing"} State
 * @typedef {{runId: string, taskId: string, mapIndex: number, state: State, span: ?Span, began: number,
 *   result: ?Result | undefined, planned: boolean, note: string}} Job  A task's work on one span. `result` is undefined
 *   until it is read, and null if there is none. `planned`: the span is the data interval of the run.
 * @typedef {Span & {state: State, job: ?Job}} Piece  A part of time, and the job that says what became of it.
 * @typedef {Span & {state: State, length: number}} Due  Intervals of this length that no run was made for.
 * @typedef {{state: string, head: string, items: {text: string, job: ?Job}[]}} Sentence
 */

const HOUR = 3_600_000;
export const DAY = 24 * HOUR;

/** Ages in a result, each up to and not including; `older` is what is past the last. */
const AGES = ["1h", "1d", "2d", "7d", "30d", "90d", "180d", "older"];

/** From the best to the worst. @type {State[]} */
export const STATES = ["done", "refused", "waiting", "failed", "missing"];

const STATE_OF = new Map(
  Object.entries({
    success: "done",
    failed: "failed",
    upstream_failed: "failed",
    skipped: "missing",
    removed: "missing",
  }),
);
const UNFINISHED_RUNS = ["queued", "running"];
const PATIENCE = HOUR; // until a run that is due, and that nothing holds up, counts as missing

// Results

/**
 * Read what a task returned: an object, or its JSON. Null if it is neither, as with an XCom backend of one's own.
 * @param {unknown} value
 * @returns {?Result}
 */
export function readResult(value) {
  const raw = typeof value === "string" ? parsed(value) : value;
  const span = spanOf(raw?.interval?.start, raw?.interval?.end);
  if (!span) return null;
  return {
    span,
    events: counts(raw.events),
    skipped: counts(raw.skipped),
    refused: counts(raw.refused ?? raw.dead_letters?.events),
    ages: Object.fromEntries(Object.entries(raw.ages ?? {}).map(([name, ages]) => [name, counts(ages)])),
    preview: raw.preview === true,
  };
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

function counts(raw) {
  return Object.fromEntries(Object.entries(raw ?? {}).filter(([, count]) => Number.isFinite(count)));
}

/** @returns {?Span} null for a span of no length, which some timetables give to their runs. */
export function spanOf(start, end) {
  const span = { start: Date.parse(start), end: Date.parse(end) };
  return span.start < span.end ? span : null;
}

export function total(counted) {
  return Object.values(counted).reduce((sum, count) => sum + count, 0);
}

function added(one, other, times = 1) {
  const sum = { ...one };
  for (const [key, count] of Object.entries(other)) sum[key] = (sum[key] ?? 0) + count * times;
  return sum;
}

function addedAges(one, other, times = 1) {
  const sum = { ...one };
  for (const [name, ages] of Object.entries(other)) sum[name] = added(sum[name] ?? {}, ages, times);
  return sum;
}

// Jobs

/**
 * Join the runs of a DAG with the instances of one task. Mapped instances that worked on one span are one job.
 * @param {object[]} runs  as Airflow's API lists them
 * @param {object[]} instances  of one task
 * @param {Map<string, ?Result>} results  by the id of the task instance
 * @returns {Job[]}
 */
export function jobsOf(runs, instances, results) {
  const byRun = Map.groupBy(instances, (instance) => instance.dag_run_id);
  return runs.flatMap((run) => {
    const own = spanOf(run.data_interval_start, run.data_interval_end);
    const found = byRun.get(run.dag_run_id);
    if (!found) return UNFINISHED_RUNS.includes(run.state) ? [unstarted(run, own)] : [];
    const parts = found.map((instance) => partOf(instance, results.get(instance.id), own, run));
    return [...Map.groupBy(parts, ({ span }) => `${span?.start} ${span?.end}`).values()].map(joined);
  });
}

function unstarted(run, span) {
  const job = { runId: run.dag_run_id, taskId: "", mapIndex: -1, state: "waiting", began: Date.parse(run.run_after) };
  return { ...job, span, planned: true, result: null, note: "" };
}

function partOf(instance, result, own, run) {
  const finished = isFinished(instance);
  const span = (finished && result?.span) || own;
  let state = STATE_OF.get(instance.state) ?? "waiting";
  if (finished && result && total(result.refused)) state = "refused";
  if (finished && result?.preview) state = "missing";
  return {
    runId: run.dag_run_id,
    taskId: instance.task_id,
    mapIndex: instance.map_index,
    state,
    span,
    planned: span?.start === own?.start && span?.end === own?.end,
    began: Date.parse(instance.start_date ?? run.run_after),
    result: finished ? result : null,
    note: result?.preview ? "only a preview" : state === "missing" ? `task ${instance.state}` : "",
  };
}

/** True if a task instance may have left a result. */
export function isFinished({ state }) {
  return state === "success" || state === "failed";
}

function joined(parts) {
  const worst = parts.reduce((one, other) => (rank(other) > rank(one) ? other : one));
  return { ...worst, began: Math.max(...parts.map(({ began }) => began)), result: joinedResult(parts) };
}

function joinedResult(parts) {
  const results = parts.map(({ result }) => result);
  if (results.includes(undefined)) return undefined;
  return results.filter(Boolean).reduce((one, other) => (one ? addedResults(one, other) : other), null);
}

function addedResults(one, other) {
  return {
    ...one,
    events: added(one.events, other.events),
    skipped: added(one.skipped, other.skipped),
    refused: added(one.refused, other.refused),
    ages: addedAges(one.ages, other.ages),
  };
}

function rank({ state }) {
  return STATES.indexOf(state);
}

// Intervals

/**
 * Cut time into pieces. Of several jobs on the same span the best counts, and of equals the latest: a repair by hand
 * makes up for a failure. What no job covers is missing, whatever the schedule is.
 * @param {Job[]} jobs
 * @param {{start?: number, next?: ?Span, due?: ?Due}} known  since when jobs are expected; the interval of the next run:
 *   nothing should be missing before it, unless the jobs work on other spans than Airflow plans; what is due
 * @returns {Piece[]} without a hole, by time
 */
export function piecesOf(jobs, { start, next, due } = {}) {
  const ahead = jobs.filter((job) => job.span).sort((one, other) => one.span.start - other.span.start);
  if (!ahead.length) return due ? [{ ...due, job: null }] : [];
  const moments = ahead.flatMap((job) => [job.span.start, job.span.end]);
  const last = ahead.reduce((one, other) => (other.span.end > one.span.end ? other : one));
  if (start < ahead[0].span.start) moments.push(start);
  if (next?.start > last.span.end && last.planned) moments.push(next.start);
  const cuts = [...new Set(moments)].sort((one, other) => one - other);
  const pieces = [];
  let active = [];
  for (let i = 0, begun = 0; i + 1 < cuts.length; i++) {
    while (ahead[begun]?.span.start <= cuts[i]) active.push(ahead[begun++]);
    active = active.filter((job) => job.span.end > cuts[i]);
    append(pieces, cuts[i], cuts[i + 1], active.reduce(better, null));
  }
  if (due?.start >= last.span.end && last.planned) append(pieces, due.start, due.end, null, due.state);
  return pieces;
}

function better(one, other) {
  if (!one || rank(other) !== rank(one)) return !one || rank(other) < rank(one) ? other : one;
  return one.began > other.began ? one : other;
}

function append(pieces, start, end, job, state = job?.state ?? "missing") {
  const last = pieces.at(-1);
  if (last && last.job === job && last.state === state) last.end = end;
  else pieces.push({ start, end, job, state });
}

/**
 * The intervals whose runs are due, but not made. Airflow tells the first one. If all planned intervals so far were as
 * long, the schedule is regular, and those after it that have ended are due, too. They wait while another run is under
 * way, and for a while after it. After that, they count as missing.
 * @param {object} dag  as Airflow's API shows it
 * @param {object[]} runs
 * @param {Job[]} jobs
 * @param {number} now
 * @returns {?Due}
 */
export function dueOf(dag, runs, jobs, now) {
  const next = spanOf(dag.next_dagrun_data_interval_start, dag.next_dagrun_data_interval_end);
  const due = Date.parse(dag.next_dagrun_run_after);
  if (!next || !(due <= now)) return null;
  const length = next.end - next.start;
  const isRegular = jobs.every(({ span, planned }) => !span || !planned || span.end - span.start === length);
  const more = isRegular ? Math.floor((now - due) / length) : 0;
  const isBusy = runs.some(({ state }) => UNFINISHED_RUNS.includes(state));
  const since = runs.reduce((latest, { end_date: end }) => Math.max(latest, Date.parse(end) || 0), due);
  const state = isBusy || now - since < PATIENCE ? "waiting" : "missing";
  return { start: next.start, end: next.end + more * length, state, length };
}

/**
 * The pieces of a window. One that is missing is cut at its edges, because no job says where it would begin or end.
 * @param {Piece[]} pieces
 * @param {Span} window
 */
export function within(pieces, window) {
  return pieces
    .filter(({ start, end }) => end > window.start && start < window.end)
    .map((piece) =>
      piece.job
        ? piece
        : { ...piece, start: Math.max(piece.start, window.start), end: Math.min(piece.end, window.end) },
    );
}

/** The usual length of an interval: the median, or that of what is due if nothing ran. @param {Piece[]} pieces */
function usualLength(pieces) {
  const lengths = pieces.flatMap(({ job }) => (job ? [job.span.end - job.span.start] : [])).sort((a, b) => a - b);
  return lengths[lengths.length >> 1] ?? pieces[0]?.length ?? DAY;
}

/** How many intervals a piece stands for: one, unless nothing ran for long. */
function howMany(piece, usual) {
  return piece.job ? 1 : Math.max(1, Math.round((piece.end - piece.start) / usual));
}

/** The part of a job's counts that belongs to a piece: all, unless other jobs cover the rest of its span. */
function share({ start, end, job }) {
  return (end - start) / (job.span.end - job.span.start);
}

/** True if the counts of a piece can still be read. */
export function isUnread({ job }) {
  return job?.result === undefined && job !== null;
}

/** True if a piece has no counts for good: Airflow shows no result, or one that can't be read. */
export function isUncounted({ state, job }) {
  return state === "done" && job.result === null;
}

/** The result of a piece, unless it is not read, has none, or is a preview, which sends nothing. */
export function sentBy({ state, job }) {
  return state !== "missing" && job?.result ? job.result : null;
}

// Sums

/**
 * A row of bars: the counts of one kind, as so many in an interval of the usual length.
 * @param {Piece[]} pieces
 * @param {(result: Result) => number} count
 * @returns {{bars: (Span & {value: number})[], most: number, sum: number}}
 */
export function rowOf(pieces, count) {
  const usual = usualLength(pieces);
  const bars = [];
  let sum = 0;
  for (const piece of pieces) {
    const result = sentBy(piece);
    if (!result) continue;
    const counted = count(result);
    sum += counted * share(piece);
    if (counted) {
      bars.push({
        start: piece.start,
        end: piece.end,
        value: (counted * usual) / (piece.job.span.end - piece.job.span.start),
      });
    }
  }
  return { bars, most: bars.reduce((most, { value }) => Math.max(most, value), 0), sum: Math.round(sum) };
}

/** Names of the collections, in the order of the newest result first. @param {Piece[]} pieces @returns {string[]} */
export function collectionsOf(pieces) {
  return [...new Set(pieces.toReversed().flatMap((piece) => Object.keys(sentBy(piece)?.events ?? {})))];
}

/**
 * How old messages were: for each collection the events that a look-back of so much finds, as parts of all whose age is
 * known.
 * @param {Piece[]} pieces
 * @returns {{name: string, sum: number, found: Record<string, number>}[]}
 */
export function agesOf(pieces) {
  const ages = pieces
    .filter(sentBy)
    .reduce((sum, piece) => addedAges(sum, piece.job.result.ages, share(piece)), {});
  return Object.entries(ages).map(cumulated).filter(({ sum }) => sum);
}

function cumulated([name, counted]) {
  const sum = AGES.reduce((known, age) => known + (counted[age] ?? 0), 0);
  let found = 0;
  return { name, sum, found: Object.fromEntries(AGES.map((age) => [age, (found += counted[age] ?? 0) / sum])) };
}

// Words

/** What somebody should look at, the worst first. */
const TROUBLES = {
  missing: "never ran",
  failed: "failed",
  refused: "with refused events",
  waiting: "not done yet",
  unknown: "whose interval is unknown, because Airflow shows no result",
};

const STATE_WORDS = { ...TROUBLES, done: "done", refused: "done, events refused" };

export function number(count) {
  return Math.round(count).toLocaleString("en-US");
}

/** A day, days, or times of one, in UTC. @param {Span} span */
export function label({ start, end }) {
  const [from, to] = [start, end].map((moment) => new Date(moment).toISOString().slice(0, 16).replace("T", " "));
  if (start % DAY || end % DAY) return `${from} to ${from.slice(0, 10) === to.slice(0, 10) ? to.slice(11) : to}`;
  const last = new Date(end - DAY).toISOString().slice(0, 10);
  return last === from.slice(0, 10) ? last : `${from.slice(0, 10)} to ${last}`;
}

/**
 * One sentence for all, then one for each state that somebody should look at.
 * @param {Piece[]} pieces
 * @param {Job[]} homeless  jobs whose span is not known
 * @returns {Sentence[]}
 */
export function sentencesOf(pieces, homeless = []) {
  const usual = usualLength(pieces);
  const sentences = Object.entries(TROUBLES).map(([state, trouble]) => {
    const found = pieces.filter((piece) => piece.state === state);
    const lost = homeless.filter((job) => stateOf(job) === state);
    const count = found.reduce((sum, piece) => sum + howMany(piece, usual), lost.length);
    const items = [
      ...found.map((piece) => itemOf(piece, usual)),
      ...lost.map((job) => ({ text: noted(`run ${job.runId}`, job.note), job })),
    ];
    return { state, head: `${number(count)} ${trouble}`, items };
  });
  const summary = pieces.length ? [summaryOf(pieces, usual)] : [];
  return [...summary, ...sentences.filter(({ items }) => items.length)];
}

function stateOf({ state, result }) {
  if (state !== "done") return state;
  return result === undefined ? "unread" : "unknown";
}

function noted(text, ...notes) {
  const said = notes.filter(Boolean).join(", ");
  return said ? `${text} (${said})` : text;
}

function itemOf(piece, usual) {
  const { job, state } = piece;
  const several = howMany(piece, usual);
  const refused = state === "refused" ? listOf(job.result.refused) : "";
  return { text: noted(label(piece), job?.note, refused, several > 1 && `${number(several)} intervals`), job };
}

function summaryOf(pieces, usual) {
  const all = pieces.reduce((sum, piece) => sum + howMany(piece, usual), 0);
  const done = pieces.filter(({ state }) => state === "done" || state === "refused").length;
  const unread = pieces.filter((piece) => piece.state === "done" && isUnread(piece)).length;
  const uncounted = pieces.filter(isUncounted).length;
  const allDone = all === 1 ? "The only interval is done" : `All ${number(all)} intervals are done`;
  const head = all === done ? allDone : `${number(done)} of ${number(all)} intervals are done`;
  const more = [
    unread && `the counts of ${number(unread)} are not read yet`,
    uncounted && `${number(uncounted)} without counts`,
  ];
  return { state: "summary", head: [head, ...more.filter(Boolean)].join("; "), items: [] };
}

/** `no_user_id 3, malformed 1`. */
export function listOf(counted) {
  return Object.entries(counted)
    .filter(([, count]) => count)
    .map(([name, count]) => `${name} ${number(count)}`)
    .join(", ");
}

/** The state of a piece in the legend's words. @param {Piece} piece */
export function wordsOf({ state, job }) {
  return noted(STATE_WORDS[state], job?.note);
}

/** All that is known of one piece, in one line. @param {Piece} piece */
export function lineOf(piece) {
  const parts = [wordsOf(piece)];
  if (isUnread(piece)) parts.push("counts not read yet");
  const result = piece.job?.result;
  if (result) {
    const count = total(result.events);
    const events = count ? `${number(count)} events: ${listOf(result.events)}` : "no events";
    parts.push(result.preview ? `would send ${events}` : events);
    if (total(result.refused)) parts.push(`refused: ${listOf(result.refused)}`);
    if (total(result.skipped)) parts.push(`skipped: ${listOf(result.skipped)}`);
  }
  return `${label(piece)}: ${parts.join("; ")}`;
}
