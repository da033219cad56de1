// What the page knows: runs, examples, frames of numbers; and how it says it.
"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const { levels, bounds, labels, runs, examples, frames } = data;
const K = Math.max(...runs.map((run) => run.heads));
const state = { example: 0, frame: frames.length - 1, head: 0, token: K };
const at = (id) => document.getElementById(id);
const SVG = ["svg", "polyline", "circle", "line"];
let boxes = []; // of each run: its list, and the nodes of its tokens
let marked = []; // nodes that show which token is chosen
let later = 0;

function make(tag, attributes = {}, ...children) {
  const node = SVG.includes(tag)
    ? document.createElementNS("http://www.w3.org/2000/svg", tag)
    : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

const found = (run, frame = state.frame) =>
  (frames[frame].of[examples[state.example].id] || [])[run];
const weightOf = (run, token, head, frame) =>
  ((found(run, frame) || { weight: [] }).weight[head] || [])[token];
const called = (run, what) => (runs.length > 1 ? `${"AB"[run]} ${what}` : what);
const known = (x) => x !== null && x !== undefined;
const number = (x) => (known(x) ? String(Number(x.toPrecision(3))) : "–");

function levelOf(weight) {
  if (!known(weight)) return "none";
  return weight === 0 ? "dropped" : bounds.filter((bound) => weight >= bound).length;
}

function clippedOf(run, token, head) {
  const clipped = (found(run) || {}).clipped;
  return clipped && clipped[head] ? clipped[head][token] : 0;
}

const heldAt = (run, token, head) =>
  ["at the floor", "", "at the ceiling"][clippedOf(run, token, head) + 1];

function shortly(run, token, head) {
  const weight = weightOf(run, token, head);
  if (!weight) return words(run, token, head);
  return [number(weight), heldAt(run, token, head)].filter(Boolean).join(", ");
}

function words(run, token, head) {
  const weight = weightOf(run, token, head), level = levelOf(weight);
  if (level === "none") return "no target";
  if (level === "dropped") return "dropped";
  return [`weight ${number(weight)}`, levels[level].name, heldAt(run, token, head)]
    .filter(Boolean).join(", ");
}

const spoken = (text) =>
  text.replace(/\n/g, " newline ").replace(/\t/g, " tab ").replace(/^ +$/, " space ").trim();
