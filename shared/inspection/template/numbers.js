// The numbers of the chosen token, their course over the steps, and all as a table.

const cell = (text) => make("td", {}, text);
const rowHead = (text) => make("th", { scope: "row" }, text);
const columnHead = (text) => make("th", { scope: "col" }, text);

const tableOf = (heads, rows) => make("table", {},
  make("thead", {}, make("tr", {}, ...heads.map(columnHead))),
  make("tbody", {}, ...rows.map(([name, values, current]) =>
    make("tr", current ? { class: "current" } : {}, rowHead(name), ...values.map(cell)))));

function tableOfHeads(token) {
  const heads = ["head", ...runs.flatMap((_, r) => [called(r, "weight"), called(r, "nll")])];
  const rows = Array.from({ length: K }, (_, k) => [k, runs.flatMap((_, r) => [
    shortly(r, token, k),
    number(((found(r) || { nll: [] }).nll[k] || [])[token]),
  ]), k === state.head]);
  return tableOf(heads, rows);
}

function tableOfNumbers(token) {
  const of = runs.map((_, r) => (found(r) || { numbers: {} }).numbers);
  const rows = Object.entries(labels)
    .filter(([name]) => of.some((numbers) => numbers[name]))
    .map(([name, label]) => [label, of.map((numbers) => number((numbers[name] || [])[token]))]);
  const heads = ["", ...runs.map((_, r) => runs.length > 1 ? called(r, "") : "the token")];
  return rows.length ? [tableOf(heads, rows)] : [];
}

function showPanel() {
  const example = examples[state.example], token = state.token;
  const text = example.texts[token].replace(/\n/g, "↵").replace(/\t/g, "⇥");
  const from = token - 1 - state.head;
  const said = from >= 0
    ? `Head ${state.head} predicts it from what ends with token ${from} (dashed).`
    : `No token before it is far enough away for head ${state.head}.`;
  at("panel").replaceChildren(
    make("h2", {}, `token ${token} `, make("code", {}, text), ` id ${example.ids[token]}`),
    make("p", {}, said), tableOfHeads(token), ...tableOfNumbers(token),
    ...(frames.length > 1 ? [curve(token)] : []));
}

// Its weight over the steps, on the same scale for every token.
function curve(token) {
  const values = frames.map((_, f) => weightOf(0, token, state.head, f));
  const top = Math.max(2, ...(runs[0].bounds || []), ...values.filter(known));
  const x = (f) => 4 + (f * 292) / Math.max(1, frames.length - 1);
  const y = (weight) => 60 - (weight / top) * 56;
  const points = values.map((w, f) => (known(w) ? `${x(f)},${y(w)}` : "")).filter(Boolean);
  const ink = { fill: "none", stroke: "currentColor", "vector-effect": "non-scaling-stroke" };
  const svg = make("svg", { viewBox: "0 0 300 64", preserveAspectRatio: "none", role: "img",
    "aria-label": `weight at each step: ${values.map(number).join(", ")}` },
    make("line", { ...ink, x1: 0, x2: 300, y1: y(1), y2: y(1), "stroke-dasharray": "3 4", opacity: 0.5 }),
    make("polyline", { ...ink, points: points.join(" "), "stroke-width": 2 }),
    make("line", { ...ink, x1: x(state.frame), x2: x(state.frame), y1: 0, y2: 64, opacity: 0.6 }));
  const last = frames[frames.length - 1].step;
  return make("figure", {}, svg, make("figcaption", {},
    `weight of head ${state.head}, steps ${frames[0].step} to ${last}; the dashed line is 1`));
}

function fillTable() {
  const example = examples[state.example];
  const columns = [];
  runs.forEach((run, r) => {
    const of = found(r) || { weight: [], nll: [], numbers: {} };
    const name = called(r, "");
    of.weight.forEach((_, k) => columns.push([`${name}weight ${k}`, (j) => shortly(r, j, k)]));
    of.nll.forEach((x, k) => columns.push([`${name}nll ${k}`, (j) => number(x[j])]));
    for (const [key, x] of Object.entries(of.numbers))
      columns.push([name + labels[key], (j) => number(x[j])]);
  });
  const rows = example.texts.map((text, j) => make("tr", {}, rowHead(j),
    make("td", {}, make("code", {}, text.replace(/\n/g, "↵").replace(/\t/g, "⇥"))),
    ...columns.map(([, value]) => cell(value(j)))));
  const caption = `${example.name} at step ${frames[state.frame].step}`;
  document.querySelector("#table .wide").replaceChildren(make("table", {},
    make("caption", {}, caption),
    make("thead", {}, make("tr", {}, columnHead("token"), columnHead("text"),
      ...columns.map(([name]) => columnHead(name)))),
    make("tbody", {}, ...rows)));
}
