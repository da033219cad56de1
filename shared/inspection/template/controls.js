// Example, head and step; the legend; and the start of it all.

function setHead(head) {
  state.head = head;
  document.querySelector(`#heads input[value="${head}"]`).checked = true;
  repaint();
}

function legend() {
  const shown = (level, clipped, text) => {
    const node = make("li", { class: "t" }, text);
    paint(node, level, clipped);
    return node;
  };
  const names = levels.map((level, n) => shown(n, 0, level.name));
  const others = [make("ul", {}, shown("dropped", 0, "dropped"))];
  if (runs.some((run) => run.bounds)) others.push(
    make("ul", {}, shown(0, -1, "at the floor")), make("ul", {}, shown(6, 1, "at the ceiling")));
  others.push(make("ul", {}, shown("none", 0, "no target")));
  at("legend").replaceChildren(make("b", {}, "weight"), make("ul", {}, ...names), ...others);
}

function start() {
  for (const part of new URLSearchParams(location.hash.slice(1))) {
    const most = { example: examples.length, frame: frames.length, head: K, token: Infinity }[part[0]];
    const value = Number(part[1]);
    if (Number.isInteger(value) && value >= 0 && value < most) state[part[0]] = value;
  }
  examples.forEach((example, n) => at("example").append(make("option", { value: n }, example.name)));
  at("example").value = state.example;
  at("example").addEventListener("change", (event) => {
    state.example = Number(event.target.value);
    layOut();
    repaint();
  });
  at("of-example").hidden = examples.length < 2;
  for (let k = 0; k < K; k++) {
    const input = make("input", { type: "radio", name: "head", value: k });
    input.addEventListener("change", () => setHead(k));
    at("heads").append(make("label", {}, input, make("span", {}, k)));
  }
  document.querySelector(`#heads input[value="${state.head}"]`).checked = true;
  at("of-head").hidden = K < 2;
  at("frame").max = frames.length - 1;
  at("frame").value = state.frame;
  at("frame").addEventListener("input", (event) => {
    state.frame = Number(event.target.value);
    repaint();
  });
  at("of-step").hidden = frames.length < 2;
  at("controls").addEventListener("submit", (event) => event.preventDefault());
  at("table").addEventListener("toggle", () => at("table").open && fillTable());
  legend();
  layOut();
  repaint();
}

start();
