// The tokens of each run, coloured by weight; which of them is chosen, by which keys.

function paint(node, level, clipped) {
  node.classList.toggle("dropped", level === "dropped");
  node.classList.toggle("none", level === "none");
  node.classList.toggle("low", clipped < 0);
  node.classList.toggle("high", clipped > 0);
  node.style.setProperty("--c", `var(--c-${level})`);
  node.style.setProperty("--h", `${typeof level === "number" ? level + 1 : 0}px`);
}

function tokenNode(text, token) {
  const node = make("span", { class: "t", role: "option", "data-token": token, tabindex: -1 });
  text.split("\n").forEach((part, n) => {
    if (n) node.append(make("span", { class: "end", "aria-hidden": "true" }, "↵"), "\n");
    node.append(part);
  });
  return node;
}

function layOut() {
  const example = examples[state.example];
  boxes = runs.map((run) => {
    const label = `tokens of ${example.name}, weighed by ${run.name}`;
    const list = make("div", { class: "tokens", role: "listbox", "aria-label": label });
    const nodes = example.texts.map(tokenNode);
    list.append(...nodes);
    list.addEventListener("keydown", (event) => move(event, nodes));
    for (const kind of ["mouseover", "focusin", "click"]) {
      list.addEventListener(kind, (event) => {
        const node = event.target.closest("[data-token]");
        if (node) choose(Number(node.dataset.token));
      });
    }
    return { list, nodes };
  });
  const documents = boxes.map((box, r) => make("section", { class: "document" },
    make("div", { class: "head" }, make("h2", {}, called(r, runs[r].name)), facts(runs[r]),
      make("p", { class: "facts", "data-metrics": r }),
      ...(example.note ? [make("p", { class: "note" }, example.note)] : [])),
    box.list));
  at("documents").classList.toggle("two", runs.length > 1);
  at("documents").replaceChildren(...documents);
  marked = [];
  state.token = Math.min(state.token, example.texts.length - 1);
}

function facts(run) {
  const node = make("p", { class: "facts" });
  run.facts.forEach(([name, value], n) =>
    node.append(n ? " · " : "", make("b", {}, name), ` ${value}`));
  return node;
}

function summary(run, count) {
  const metrics = (found(run) || {}).metrics;
  if (!metrics) return "not kept at this step";
  const [least, most, mean] =
    ["min", "max", "mean"].map((name) => number(metrics[`weight_${name}`]));
  const kept = number(100 * metrics.kept_fraction);
  return `one document of ${count} tokens: over all heads weights from ${least} to ` +
    `${most}, mean ${mean}; ${kept} % of the targets kept`;
}

function repaint() {
  boxes.forEach(({ nodes }, r) => {
    nodes.forEach((node, j) => {
      paint(node, levelOf(weightOf(r, j, state.head)), clippedOf(r, j, state.head));
      const text = spoken(examples[state.example].texts[j]);
      node.setAttribute("aria-label", `${j}: ${text}. ${words(r, j, state.head)}`);
    });
    document.querySelector(`[data-metrics="${r}"]`).textContent = summary(r, nodes.length);
  });
  at("step").textContent = `${frames[state.frame].step} (${state.frame + 1} of ${frames.length})`;
  choose(state.token);
  if (at("table").open) fillTable();
}

function choose(token) {
  state.token = token;
  marked.forEach((node) => mark(node, false, false));
  const read = token - 1 - state.head;
  marked = boxes.flatMap(({ nodes }) => [nodes[token], nodes[read]]).filter(Boolean);
  for (const { nodes } of boxes) {
    if (nodes[read]) mark(nodes[read], false, true);
    mark(nodes[token], true, false);
  }
  showPanel();
  clearTimeout(later);
  later = setTimeout(remember, 300);
}

function mark(node, chosen, from) {
  node.tabIndex = chosen ? 0 : -1;
  node.setAttribute("aria-selected", String(chosen));
  node.classList.toggle("chosen", chosen);
  node.classList.toggle("from", from);
}

// In the address, so that what is seen can be passed on.
function remember() {
  const words = Object.entries(state).map(([name, n]) => `${name}=${n}`);
  try {
    history.replaceState(null, "", `#${words.join("&")}`);
  } catch (error) {
    if (error.name !== "SecurityError") throw error; // a frame of another page
  }
}

// The token nearest in the line above or below, else the one before or after.
function beside(nodes, down) {
  const here = nodes[state.token].getClientRects()[0];
  const others = nodes.map((node, j) => [j, node.getClientRects()[0]])
    .filter(([, box]) => box && (down ? box.top > here.top + 4 : box.top < here.top - 4));
  if (!others.length) return state.token;
  const line = others[down ? 0 : others.length - 1][1].top;
  const near = others.filter(([, box]) => Math.abs(box.top - line) < 4)
    .sort(([, a], [, b]) => Math.abs(a.left - here.left) - Math.abs(b.left - here.left));
  return near[0][0];
}

function move(event, nodes) {
  const last = nodes.length - 1;
  const to = {
    ArrowLeft: () => Math.max(0, state.token - 1),
    ArrowRight: () => Math.min(last, state.token + 1),
    ArrowUp: () => beside(nodes, false),
    ArrowDown: () => beside(nodes, true),
    Home: () => 0,
    End: () => last,
  }[event.key];
  const digit = /^[0-9]$/.test(event.key) && !event.ctrlKey && !event.metaKey && !event.altKey;
  if (digit && Number(event.key) < K) return setHead(Number(event.key));
  if (!to) return;
  event.preventDefault();
  choose(to());
  nodes[state.token].focus();
}
