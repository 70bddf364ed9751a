"use strict";
// The page that envtune/study/browse.py writes. Data reaches the page as text nodes and attributes
// only, never as HTML: a message with <script> stays text.

const CHUNK = Number(document.body.dataset.chunk);
const WORDS = JSON.parse(document.body.dataset.words);  // outcome: its words, the class of its bar
const SELECTS = ["run", "stage", "kind", "split", "ending", "error kind"];
const NUMBERS = ["step", "reward"];
const HELP = document.getElementById("help").textContent;
const NONE = "(none)", OFF = "off", UNSEEN = "on, none shown", SEEN = "any shown";

addEventListener("unhandledrejection", (event) => {
  document.getElementById("help").textContent = `This page could not be shown: ${event.reason}`;
});

let table, index;         // DataTables' interface; a list for every column, a value an episode
let opened = null;        // the episode that was opened last, a row number of the index
let beside = null;        // the episode that another one is to be compared with

/** An element with attributes, listeners (onclick: ...) and children; texts become text nodes. */
function el(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== null && value !== false) node.setAttribute(name, value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== ""));
  return node;
}

const unpacked = new Map();
/** The JSON of one of the page's compressed pieces; each is unpacked once. */
function unpack(name) {
  if (!unpacked.has(name)) {
    const bytes = Uint8Array.from(atob(document.getElementById(name).textContent), (c) => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    unpacked.set(name, new Response(stream).json());
  }
  return unpacked.get(name);
}

async function lineOf(i) {
  return (await unpack(`chunk-${Math.floor(i / CHUNK)}`))[i % CHUNK];
}

// ---- the table

/** Called by DataTables whenever it has drawn the table, at first without rows. */
function drawn(api) {
  if (!table) start(api);
  reachable(api.table().body());
}

async function start(api) {
  table = api;
  const cells = await unpack("cells");
  index = await unpack("index");
  table.rows.add(cells).draw();
  addFilters();
  const body = table.table().body();
  const open = (event) => {
    const row = event.target.closest("tr");
    if (row && table.row(row).any()) show(table.row(row).index());
  };
  body.addEventListener("click", open);
  body.addEventListener("keydown", (event) => {
    const to = { ArrowDown: "nextElementSibling", ArrowUp: "previousElementSibling" }[event.key];
    if (event.key === "Enter") open(event);
    if (to) focusRow(event.target.closest("tr")[to]);
    if (to || event.key === "Enter") event.preventDefault();
  });
  document.body.dataset.readyMilliseconds = Math.round(performance.now());
}

/** One row can be reached with Tab, the others from there with the arrow keys. */
function reachable(body) {
  [...body.rows].forEach((row, place) => { row.tabIndex = place === 0 ? 0 : -1; });
}

function focusRow(row) {
  if (!row) return;
  for (const other of table.table().body().rows) other.tabIndex = -1;
  row.tabIndex = 0;
  row.focus();
}

function hintWords(i) {
  const shown = index.hints[i];
  return shown === null ? [OFF] : shown.length ? [SEEN, ...shown] : [UNSEEN];
}

function addFilter(name, control) {
  control.id = `filter ${name}`;
  const label = el("label", { for: control.id }, name);
  document.getElementById("filters").append(el("div", {}, label, control));
}

function addFilters() {
  const chosen = new Map();  // column -> whether an episode passes
  const set = (name, test) => {
    if (test) chosen.set(name, test); else chosen.delete(name);
    table.draw();
  };
  const select = (name, wordsOf) => {
    const words = [...new Set(index.task.flatMap((_, i) => wordsOf(i)))].sort();
    if (words.length < 2) return;
    const change = (event) => {
      const want = event.target.value;
      set(name, want === "" ? null : (i) => wordsOf(i).includes(want.slice(1)));
    };
    // a value begins with "=", so that "" is left for all
    const options = words.map((word) => el("option", { value: `=${word}` }, word));
    const choice = el("select", { onchange: change }, el("option", { value: "" }, "all"), options);
    addFilter(name, choice);
  };
  const range = (name) => {
    if (index[name].every((value) => value === null)) return;
    for (const [word, sign] of [["from", 1], ["to", -1]]) {
      const change = (event) => {
        const limit = event.target.value;
        const test = (i) => index[name][i] !== null && sign * (index[name][i] - Number(limit)) >= 0;
        set(`${name} ${word}`, limit === "" ? null : test);
      };
      addFilter(`${name} ${word}`, el("input", { type: "number", step: "any", oninput: change }));
    }
  };
  for (const name of SELECTS) select(name, (i) => [String(index[name][i] || NONE)]);
  select("hints", hintWords);
  NUMBERS.forEach(range);
  table.search.fixed("filters", (_, __, i) => [...chosen.values()].every((test) => test(i)));
}

// ---- which episodes belong together

const all = () => [...index.task.keys()];
const sameGroup = (i) => all().filter((j) => index.group[i] !== null && index.group[j] === index.group[i]);

/** The first, this and the last episode of the same task, played in the same way. */
function beforeAfter(i) {
  const played = (j) => [index.task[j], index.kind[j] === "train", index.hints[j] === null].join();
  const moment = (j) => [index.run[j], index.stage[j], index.step[j]].join();
  const same = all().filter((j) => played(j) === played(i));
  const ends = [same[0], same[same.length - 1]].filter((j) => moment(j) !== moment(i));
  return [...new Set([...ends, i])].sort((a, b) => a - b);
}

/** This episode and one of the same task with hints switched the other way: the nearest, and of
    equals one that read a hint. */
function hintsOnOff(i) {
  const off = (j) => index.hints[j] === null;
  const distance = (j) => ["run", "stage", "step", "kind"].reduce(
    (sum, name, place) => sum + (index[name][j] === index[name][i] ? 0 : 2 ** (3 - place)),
    index.hints[j]?.length ? 0 : 0.5);
  const others = all().filter((j) => index.task[j] === index.task[i] && off(j) !== off(i));
  others.sort((a, b) => distance(a) - distance(b) || Math.abs(a - i) - Math.abs(b - i));
  return [i, ...others.slice(0, 1)].sort((a, b) => off(b) - off(a));
}

// ---- episodes

/** Open an episode, beside another one if that was asked for. */
function show(i) {
  const together = beside === null || beside === i ? [i] : [beside, i];
  view(i, together, together.length > 1 ? "Two episodes" : "Episode");
  beside = null;
  help();
}

/** Replace the table by the episodes in `together`. */
async function view(i, together, title) {
  opened = i;
  const [tasks, ...lines] = await Promise.all([unpack("tasks"), ...together.map(lineOf)]);
  const heading = el("h2", { tabindex: "-1" }, together.length > 1 ? `${title} (${together.length})` : `${title} ${i + 1}`);
  const columns = el("div", { class: "columns", role: "group", tabindex: "0", "aria-label": title },
    together.map((j, place) => episode(j, lines[place], tasks[index.task[j]], together.length > 1 && j === i)));
  const section = document.getElementById("episode");
  section.replaceChildren(toolbar(i), heading, ...(together.length > 2 ? [overview(i, together)] : []), columns);
  section.hidden = false;
  document.getElementById("list").hidden = true;
  scrollTo(0, 0);
  heading.focus();
}

/** The numbers of many episodes at a glance. */
function overview(i, together) {
  const columns = {
    "no.": (j) => String(j + 1), step: (j) => index.step[j] ?? "", reward: (j) => rounded(index.reward[j], 3) ?? "",
    advantage: (j) => rounded(index.advantage[j], 2) ?? "", "turns won": (j) => `${index.won[j]} of ${index.turns[j]}`,
    ending: (j) => index.ending[j], "error kind": (j) => index["error kind"][j],
  };
  const rows = together.map((j) => el("tr", { class: j === i ? "opened" : null },
    Object.values(columns).map((value) => el("td", {}, value(j)))));
  return el("table", { class: "overview" },
    el("thead", {}, el("tr", {}, Object.keys(columns).map((name) => el("th", {}, name)))), el("tbody", {}, rows));
}

function back() {
  document.getElementById("episode").hidden = true;
  document.getElementById("list").hidden = false;
  const row = opened === null ? null : table.row(opened).node();
  if (row && row.isConnected) focusRow(row);
}

function help() {
  const text = beside === null ? "" : `Choose an episode to show beside episode ${beside + 1}; Esc cancels. `;
  document.getElementById("help").textContent = text + HELP;
}

function toolbar(i) {
  const order = table.rows({ order: "applied", search: "applied" }).indexes().toArray();
  const place = order.indexOf(i);
  const go = (label, to) => el("button", { type: "button", disabled: to === undefined ? "" : null, onclick: () => view(to, [to], "Episode") }, label);
  const compare = (label, together) => {
    const alone = together.length < 2;
    const click = () => view(i, together, label);
    return el("button", { type: "button", disabled: alone ? "" : null, onclick: click },
      alone ? `${label}: none` : `${label} (${together.length})`);
  };
  const choose = () => { beside = i; help(); back(); };
  return el("nav", { "aria-label": "Episode" },
    el("button", { type: "button", onclick: back }, "Back to the table (Esc)"),
    go("← Previous", place < 0 ? undefined : order[place - 1]),
    go("Next →", place < 0 ? order[0] : order[place + 1]),
    compare("Its group", sameGroup(i)),
    compare("Before and after", beforeAfter(i)),
    compare("Without and with hints", hintsOnOff(i)),
    el("button", { type: "button", onclick: choose }, "Compare with another…"));
}

const rounded = (value, digits) => value === null ? null : String(Number(value.toFixed(digits)));

/** One episode: its facts, then turn by turn what was said, called, read and judged. */
function episode(i, line, task, marked) {
  const moment = [index.run[i], index.stage[i], index.kind[i]].filter(Boolean).join(" · ");
  const step = index.step[i] === null ? "" : `, step ${index.step[i]}`;
  const repeat = index.repeat[i] === null ? "" : `, repeat ${index.repeat[i]}`;
  const facts = {
    played: moment + step + repeat,
    reward: rounded(index.reward[i], 3) ?? "not known: its function is not built in",
    advantage: rounded(index.advantage[i], 2),
    "turns won": `${index.won[i]} of ${index.turns[i]}`,
    ending: index.ending[i],
    "error kind": index["error kind"][i] || null,
    hints: hintWords(i).filter((word) => word !== SEEN).join(", "),
    limits: line.limits,
  };
  const rows = Object.entries(facts).filter(([, value]) => value !== null)
    .flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]);
  const turns = Array.from({ length: line.turns }, (_, turn) => turnOf(line, task, turn));
  return el("article", { class: marked ? "opened" : null, "data-episode": i + 1 },
    el("h2", {}, `${i + 1}. ${line.task_id}`), el("dl", { class: "facts" }, rows), turns, tokens(line.tokens));
}

function turnOf(line, task, turn) {
  const verdict = line.verdicts.find((one) => one.turn === turn);
  const steps = line.steps.filter((step) => step.turn === turn);
  if (!verdict && !steps.length) return el("p", { class: "muted" }, `Turn ${turn + 1}: not reached`);
  const [mark, colour] = !verdict ? ["not finished", ""]
    : verdict.success ? ["✓ won", "good"] : [`✗ lost: ${verdict.why}`, "bad"];
  return el("section", {},
    el("h3", {}, `Turn ${turn + 1}, user`), el("p", { class: "user" }, task.user[turn]),
    steps.map(stepOf),
    el("div", { class: `verdict ${colour}` }, el("span", { class: "badge" }, mark),
      groundTruth(task.truth[turn], steps, verdict && !verdict.success)));
}

const callText = ([name, values]) =>
  `${name}(${Object.entries(values).map(([key, value]) => `${key}=${JSON.stringify(value)}`).join(", ")})`;

/** The ground truth's calls of a turn, each with whether the agent made the very same one. */
function groundTruth(truth, steps, open) {
  if (!truth.length) return el("p", { class: "muted" }, "ground truth: no call, asking is right");
  const made = new Set(steps.flatMap((step) => step.calls.map((call) => callText([call.name, call.arguments]))));
  const items = truth.map(callText).map((text) => `${made.has(text) ? "made" : "not made in these words"}: ${text}`);
  return el("details", { open: open ? "" : null }, el("summary", {}, "Ground truth"), el("pre", {}, items.join("\n")));
}

/** One message of the agent, and what it read about it. */
function stepOf(step) {
  const [words, kind] = WORDS[step.outcome] ?? [step.outcome, ""];
  const said = {};
  for (const [, tag, text] of step.message.matchAll(/<(think|tool_call|answer)>([\s\S]*?)<\/\1>/g)) said[tag] = text.trim();
  const broken = step.outcome === "format_error" || !Object.keys(said).length;
  const calls = step.calls.map((call) => callText([call.name, call.arguments]));
  const message = broken ? [el("pre", {}, step.message)] : [
    said.think ? el("p", { class: "think" }, said.think) : null,
    calls.length ? el("pre", {}, calls.join("\n")) : null,
    said.answer ? el("p", { class: "answer" }, said.answer) : null,
    el("details", { class: "written" }, el("summary", {}, "as written"), el("pre", {}, step.message))];
  const read = step.shown?.length ? step.shown : step.results;
  const results = read.map((text, place) => {
    const hint = step.hints[place], name = step.calls[place].name;
    return el("div", { class: hint ? "result warn" : "result" },
      el("span", { class: "badge" }, hint ? `${name}, with hint ${hint}` : name), el("pre", {}, text));
  });
  const more = [];
  if (step.truncated) more.push(`${step.truncated} characters of the results were not shown to the agent`);
  // records of version 2 lack what was read of each result
  const unlike = !step.shown?.length && (step.truncated || step.hints.some(Boolean));
  if (!results.length || unlike || step.outcome === "forced_end") more.push(step.feedback);
  return el("div", {},
    el("div", { class: `step ${kind}` }, el("span", { class: "badge" }, `agent: ${words}`), message),
    results, more.filter(Boolean).map((text) => el("div", { class: "result" }, el("pre", {}, text))));
}

/** The episode's tokens by mask; under a sampled one, the redder the bar the less likely it was. */
function tokens(kept) {
  if (!kept) return el("p", { class: "muted" }, "Tokens and log-probabilities were not kept (preset field keep_tokens).");
  const sampled = kept.mask.filter(Boolean).length;
  const draw = () => kept.texts.map((text, place) => {
    const logprob = kept.logprobs?.[place] ?? null;
    if (!kept.mask[place]) return el("span", { class: "given" }, text);
    const unlikely = logprob === null ? 0 : Math.round(100 * (1 - Math.exp(logprob)));
    const title = logprob === null ? `id ${kept.ids[place]}` : `id ${kept.ids[place]}, log-probability ${logprob}`;
    return el("span", { class: "sampled", title, style: `--unlikely: ${unlikely}%` }, text);
  });
  const known = kept.logprobs?.filter((value, place) => kept.mask[place] && value !== null) ?? [];
  const mean = known.length ? `; mean log-probability ${(known.reduce((a, b) => a + b, 0) / known.length).toFixed(3)}` : "";
  const place = el("div", { class: "tokens" });
  const fill = () => { if (!place.childNodes.length) place.append(...draw()); };
  return el("details", { ontoggle: fill },
    el("summary", {}, `Tokens: ${sampled} sampled by the policy, ${kept.mask.length - sampled} written by the environment (grey)${mean}`), place);
}

// ---- keys and colours of the whole page

document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  if (!document.getElementById("episode").hidden) back();
  else if (beside !== null) { beside = null; help(); }
});

function setDark(dark) {
  document.documentElement.style.colorScheme = dark ? "dark" : "light";
  document.documentElement.classList.toggle("dark", dark);  // what DataTables looks for
  document.getElementById("theme").setAttribute("aria-pressed", dark);
}
const system = matchMedia("(prefers-color-scheme: dark)");
setDark(system.matches);
system.addEventListener("change", (event) => setDark(event.matches));
document.getElementById("theme").addEventListener("click", () => setDark(!document.documentElement.classList.contains("dark")));
