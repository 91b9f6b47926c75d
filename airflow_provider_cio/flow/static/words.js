/**
 * The picture in words. As in flow.js, nothing here asks a server or draws.
 *
 * @typedef {import("./flow.js").Span} Span
 * @typedef {import("./flow.js").Job} Job
 * @typedef {import("./flow.js").Piece} Piece
 * @typedef {{state: string, head: string, items: {text: string, job: ?Job}[]}} Sentence
 */
import { DAY, howMany, isUncounted, isUnread, total, usualLength } from "./flow.js";

const HEADS = {
  missing: (count) => `${number(count)} never ran`,
  failed: (count) => `${number(count)} failed`,
  refused: (count) => `${number(count)} with refused events`,
  waiting: (count) => `${number(count)} not done yet`,
  unknown: (count) => `${number(count)} whose interval is unknown, because Airflow shows no result`,
};

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
  const sentences = Object.keys(HEADS).map((state) => {
    const found = pieces.filter((piece) => piece.state === state);
    const lost = homeless.filter((job) => stateOf(job) === state);
    const count = found.reduce((sum, piece) => sum + howMany(piece, usual), lost.length);
    const items = [
      ...found.map((piece) => itemOf(piece, usual)),
      ...lost.map((job) => ({ text: noted(`run ${job.runId}`, job.note), job })),
    ];
    return { state, head: HEADS[state](count), items };
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

const STATE_WORDS = {
  done: "done",
  refused: "done, events refused",
  waiting: "not done yet",
  failed: "failed",
  missing: "never ran",
};

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
    const sent = total(result.events);
    parts.push(sent ? `${number(sent)} events: ${listOf(result.events)}` : "no events");
    if (total(result.refused)) parts.push(`refused: ${listOf(result.refused)}`);
    if (total(result.skipped)) parts.push(`skipped: ${listOf(result.skipped)}`);
  }
  return `${label(piece)}: ${parts.join("; ")}`;
}
