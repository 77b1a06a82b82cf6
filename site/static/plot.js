// Curves to look into: values under the pointer, one curve made to stand out, a stretch made large. It reads the numbers
// that the page shows as text; without this file they and the still pictures are there. Its state is in the address.
(() => {
  "use strict";
  const NS = "http://www.w3.org/2000/svg";
  const HEIGHT = 320, LEFT = 52, RIGHT = 14, TOP = 10, BOTTOM = 42;
  const DASHES = ["", "7 3", "2 2", "9 3 2 3", "4 4", "12 4", "1 3"];
  const svg = (tag, attributes, text) => {
    const node = document.createElementNS(NS, tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    if (text !== undefined) node.textContent = text;
    return node;
  };
  const make = (tag, text, attributes = {}) => {
    const node = document.createElement(tag);
    node.textContent = text;
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    return node;
  };
  const cells = (line) => [...line.matchAll(/(?:^|,)(?:"((?:[^"]|"")*)"|([^,]*))/g)].map((m) => m[1] !== undefined ? m[1].replaceAll('""', '"') : m[2]);
  const lines = (text) => text.trim().split("\n").map(cells);

  // name -> points [x, y], for each view that a page offers.
  const VIEWS = {
    curves: (rows) => ["exact_match", "loss"].map((column, k) => {
      const series = new Map();
      for (const row of rows.slice(1)) {
        const y = row[3 - k] === "" ? NaN : Number(row[3 - k]) * (k ? 1 : 100);
        if (!series.has(row[1])) series.set(row[1], []);
        series.get(row[1]).push([Number(row[0]), y]);
      }
      return { name: column, words: k ? "loss, nats a token" : "exact match, %", x: "billed FLOPs", whole: k ? null : [0, 100], series };
    }),
    profiles: (rows) => {
      const series = new Map(rows[0].slice(1).map((name, k) => [name, rows.slice(1).map((row) => [Number(row[0]), 100 * Number(row[k + 1])])]));
      return [{ name: "profile", words: "workloads within that factor, %", x: "FLOPs to target, as a multiple of the best strategy's", whole: [0, 100], steps: true, series }];
    },
  };

  const number = (x) => x === 0 ? "0" : Math.abs(x) >= 1e4 ? x.toExponential(2).replace("e+", "e") : String(Number(x.toPrecision(3)));
  const ticks = (low, high, most = 5.5) => {
    const size = 10 ** Math.floor(Math.log10((high - low) / 4));
    const step = [1, 2, 2.5, 5, 10, 20, 25, 50].map((m) => m * size).find((s) => (high - low) / s <= most);
    const made = [];
    for (let k = Math.ceil(low / step - 1e-9); k * step <= high + 1e-9 * step; k += 1) made.push(k * step);
    return made;
  };
  const state = () => new URLSearchParams(location.hash.slice(1));
  const keep = (values) => {
    const found = state();
    for (const [name, value] of Object.entries(values)) { if (value) found.set(name, value); else found.delete(name); }
    const text = found.toString();
    history.replaceState(null, "", text ? "#" + text : location.pathname + location.search);
  };

  const plot = (place, views) => {
    const WIDTH = Math.round(Math.min(760, Math.max(300, place.parentElement.clientWidth)));
    const all = views[0];
    const xs = [...new Set(views.flatMap((view) => [...view.series.values()].flat().map(([x]) => x)))].sort((a, b) => a - b);
    if (xs.length < 2) return;
    let view = all, span = [xs[0], xs[xs.length - 1]], cursor = null, lit = "", drag = null;
    const whole = [...span];
    const tools = make("div", "", { class: "tools" });
    const choices = views.length < 2 ? [] : views.map((each) => {
      const button = make("button", each.words.split(",")[0], { type: "button", "data-view": each.name });
      button.addEventListener("click", () => { view = each; remember(); draw(); });
      return button;
    });
    const zoom = (factor, at = (span[0] + span[1]) / 2) => {
      const wide = Math.min((span[1] - span[0]) * factor, whole[1] - whole[0]);
      if (wide < (whole[1] - whole[0]) / 200) return;
      const left = Math.min(Math.max(at - (at - span[0]) * (wide / (span[1] - span[0])), whole[0]), whole[1] - wide);
      span = [left, left + wide];
      remember(); draw();
    };
    const buttons = [["+", "Zoom in", () => zoom(0.5, cursor ?? undefined)], ["−", "Zoom out", () => zoom(2)], ["All", "Show all", () => zoom(1e9)]]
      .map(([text, label, act]) => { const button = make("button", text, { type: "button", "aria-label": label }); button.addEventListener("click", act); return button; });
    tools.append(...choices, ...buttons);
    const picture = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, class: "plot", tabindex: "0", role: "img" });
    const where = make("p", "", { class: "quiet small", role: "status" });
    const legend = make("div", "", { class: "keys" });
    const names = [...all.series.keys()];
    const style = (k) => `stroke:var(--series-${(k % 7) + 1});stroke-dasharray:${DASHES[Math.floor(k / 7 + k) % 7] || "none"}`;
    const keys = names.map((name, k) => {
      const button = make("button", "", { type: "button", "aria-pressed": "false" });
      const swatch = svg("svg", { viewBox: "0 0 26 8", width: 26, height: 8, "aria-hidden": "true" });
      swatch.append(svg("path", { d: "M0 4H26", style: style(k) }));
      const words = make("bdi", name);
      const value = make("span", "", { class: "value" });
      button.append(swatch, words, value);
      button.addEventListener("click", () => { lit = lit === name ? "" : name; remember(); draw(); });
      return [name, button, value];
    });
    legend.append(...keys.map(([, button]) => button));
    const remember = () => keep({
      view: view === all ? "" : view.name, curve: lit,
      from: span[0] > whole[0] ? String(Number(span[0].toPrecision(6))) : "", to: span[1] < whole[1] ? String(Number(span[1].toPrecision(6))) : "",
    });
    const recall = () => {
      const found = state();
      view = views.find((each) => each.name === found.get("view")) || all;
      lit = names.includes(found.get("curve")) ? found.get("curve") : "";
      const [from, to] = [Number(found.get("from") || whole[0]), Number(found.get("to") || whole[1])];
      span = from < to && from >= whole[0] && to <= whole[1] ? [from, to] : [...whole];
    };

    const toX = (x) => LEFT + ((x - span[0]) / (span[1] - span[0])) * (WIDTH - LEFT - RIGHT);
    const fromEvent = (event) => {
      const box = picture.getBoundingClientRect();
      const at = ((event.clientX - box.left) / box.width) * WIDTH;
      return span[0] + Math.min(Math.max((at - LEFT) / (WIDTH - LEFT - RIGHT), 0), 1) * (span[1] - span[0]);
    };
    const range = () => {
      if (view.whole && span[0] === whole[0] && span[1] === whole[1]) return view.whole;
      const ys = [...view.series.values()].flat().filter(([x, y]) => Number.isFinite(y) && x >= span[0] && x <= span[1]).map(([, y]) => y);
      const [low, high] = ys.length ? [Math.min(...ys), Math.max(...ys)] : [0, 1];
      const pad = 0.06 * (high - low) || 1;
      return [Math.max(low - pad, Math.min(low, 0)), view.whole ? Math.min(high + pad, view.whole[1]) : high + pad];
    };
    const outline = (points) => {
      let text = "", pen = "M", last = null;
      for (const [x, y] of points) {
        if (!Number.isFinite(y)) { pen = "M"; continue; }
        text += view.steps && last !== null && pen === "L" ? `H${toX(x).toFixed(1)}V${toY(y).toFixed(1)}` : `${pen}${toX(x).toFixed(1)} ${toY(y).toFixed(1)}`;
        pen = "L"; last = y;
      }
      return text;
    };
    let toY = (y) => y;
    const at = (name) => (view.series.get(name) || []).filter(([x]) => x <= cursor).map(([, y]) => y).pop();
    const draw = () => {
      const [low, high] = range();
      toY = (y) => HEIGHT - BOTTOM - ((y - low) / (high - low)) * (HEIGHT - TOP - BOTTOM);
      const clip = svg("clipPath", { id: "inside" });
      clip.append(svg("rect", { x: LEFT, y: TOP - 3, width: WIDTH - LEFT - RIGHT, height: HEIGHT - TOP - BOTTOM + 6 }));
      const parts = [clip];
      for (const y of ticks(low, high))
        parts.push(svg("path", { class: "grid", d: `M${LEFT} ${toY(y)}H${WIDTH - RIGHT}` }), svg("text", { x: LEFT - 6, y: toY(y) + 4, "text-anchor": "end" }, number(y)));
      for (const x of ticks(...span, WIDTH / 138)) parts.push(svg("text", { x: toX(x), y: HEIGHT - BOTTOM + 17, "text-anchor": "middle" }, number(x)));
      parts.push(svg("text", { x: (LEFT + WIDTH - RIGHT) / 2, y: HEIGHT - 6, "text-anchor": "middle" }, view.x));
      const inside = svg("g", { "clip-path": "url(#inside)" });
      names.forEach((name, k) => {
        const dim = lit && lit !== name;
        const line = svg("path", { class: "curve" + (dim ? " dim" : lit ? " lit" : ""), d: outline(view.series.get(name) || []), style: style(k) });
        line.append(svg("title", {}, name));
        inside.append(line);
      });
      parts.push(inside, svg("path", { class: "cursor", d: "" }), svg("rect", { class: "chosen", y: TOP, height: HEIGHT - TOP - BOTTOM, width: 0 }));
      picture.replaceChildren(...parts);
      picture.setAttribute("aria-label", `${view.words} against ${view.x}, from ${number(span[0])} to ${number(span[1])}; arrow keys read values, plus and minus zoom, 0 shows all`);
      choices.forEach((button) => button.setAttribute("aria-pressed", String(button.dataset.view === view.name)));
      keys.forEach(([name, button]) => button.setAttribute("aria-pressed", String(lit === name)));
      read();
    };
    const read = () => {
      const line = picture.querySelector(".cursor");
      line.setAttribute("d", cursor === null || cursor < span[0] || cursor > span[1] ? "" : `M${toX(cursor)} ${TOP}V${HEIGHT - BOTTOM}`);
      where.textContent = cursor === null ? "Point at the curves for their values; drag to zoom; choose a name to make it stand out." : `At ${number(cursor)} ${view.x.split(",")[0]}:`;
      for (const [name, , value] of keys) {
        const y = cursor === null ? NaN : at(name) ?? NaN;
        value.textContent = Number.isFinite(y) ? number(y) : "";
      }
    };
    const nearest = (x) => xs.reduce((best, each) => Math.abs(each - x) < Math.abs(best - x) ? each : best, xs[0]);
    picture.addEventListener("pointermove", (event) => {
      cursor = nearest(fromEvent(event));
      read();
      if (drag === null) return;
      const ends = [drag, fromEvent(event)].sort((a, b) => a - b).map(toX);
      const box = picture.querySelector(".chosen");
      box.setAttribute("x", ends[0]); box.setAttribute("width", ends[1] - ends[0]);
    });
    picture.addEventListener("pointerdown", (event) => { if (event.button === 0) { drag = fromEvent(event); picture.setPointerCapture(event.pointerId); } });
    picture.addEventListener("pointerup", (event) => {
      const ends = drag === null ? [0, 0] : [drag, fromEvent(event)].sort((a, b) => a - b);
      drag = null;
      if (toX(ends[1]) - toX(ends[0]) > 8) { span = ends; remember(); draw(); return; }
      picture.querySelector(".chosen").setAttribute("width", 0);
      const y = ((event.clientY - picture.getBoundingClientRect().top) / picture.getBoundingClientRect().height) * HEIGHT;
      const near = names.map((name) => [Math.abs(toY(at(name) ?? NaN) - y), name]).filter(([far]) => far < 14).sort(([a], [b]) => a - b)[0];
      lit = near && near[1] !== lit ? near[1] : "";
      remember(); draw();
    });
    picture.addEventListener("pointerleave", () => { if (drag === null) { cursor = null; read(); } });
    picture.addEventListener("keydown", (event) => {
      const inView = xs.filter((x) => x >= span[0] && x <= span[1]);
      const k = inView.indexOf(cursor);
      const act = {
        ArrowRight: () => { cursor = inView[Math.min(k + 1, inView.length - 1)]; read(); },
        ArrowLeft: () => { cursor = inView[Math.max(k - 1, 0)]; read(); },
        "+": () => zoom(0.5, cursor ?? undefined), "=": () => zoom(0.5, cursor ?? undefined), "-": () => zoom(2), 0: () => zoom(1e9),
      }[event.key];
      if (act && !event.ctrlKey && !event.metaKey) { event.preventDefault(); act(); }
    });
    place.append(tools, picture, where, legend);
    place.hidden = false;
    const still = document.getElementById(place.dataset.instead);
    if (still) still.hidden = true;
    recall(); draw();
    addEventListener("hashchange", () => { recall(); draw(); });
  };

  for (const place of document.querySelectorAll("[data-plot]")) {
    const source = document.getElementById(place.dataset.from);
    if (source) plot(place, VIEWS[place.dataset.plot](lines(source.textContent)));
  }
})();
