// The pages are whole without this file. It sorts, filters, switches budgets, highlights and compares, and keeps that in
// the address after the '#'. Text of records enters the page by textContent and setAttribute alone, never as HTML.
(() => {
  "use strict";
  const $ = (query, root = document) => root.querySelector(query);
  const $$ = (query, root = document) => [...root.querySelectorAll(query)];
  const KEYS = ["budget", "sort", "dir", "q", "hl", "a", "b"];

  const state = {};
  const readState = () => {
    const found = new URLSearchParams(location.hash.slice(1));
    for (const key of KEYS) state[key] = found.get(key) || "";
  };
  const writeState = () => {
    const found = new URLSearchParams(location.hash.slice(1)); // plot.js keeps its own beside these
    for (const key of KEYS) if (state[key]) found.set(key, state[key]); else found.delete(key);
    const text = found.toString();
    history.replaceState(null, "", text ? "#" + text : location.pathname + location.search);
  };
  const make = (tag, text, attributes = {}) => {
    const node = document.createElement(tag);
    if (text !== undefined) node.textContent = text;
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    return node;
  };
  // A name that may end a line after + = _, as `breaks` of pages.py has it.
  const named = (tag, text, attributes) => {
    const node = make(tag, "", attributes);
    node.append(...text.split(/(?<=[+=_])(?=[^+=_])/).flatMap((part, k) => (k ? [make("wbr"), part] : [part])));
    return node;
  };

  // Light and dark: the system's choice until somebody makes one.
  const SCHEMES = ["auto", "light", "dark"];
  const remembered = () => { try { return localStorage.getItem("scheme") || "auto"; } catch { return "auto"; } };
  const scheme = (name) => {
    document.documentElement.style.colorScheme = name === "auto" ? "" : name;
    try { localStorage.setItem("scheme", name); } catch { /* a page from file:// may not keep anything */ }
  };
  const addScheme = () => {
    let now = SCHEMES.includes(remembered()) ? remembered() : "auto";
    scheme(now);
    const button = make("button", "", { type: "button", class: "scheme" });
    const say = () => { button.textContent = now; button.setAttribute("aria-label", "Colours: " + now); };
    button.addEventListener("click", () => { now = SCHEMES[(SCHEMES.indexOf(now) + 1) % 3]; scheme(now); say(); });
    say();
    $("header").append(button);
  };

  // Sorting. Cells without a number stay last in both directions; equal ones keep the page's order.
  const value = (row, column, text) => {
    const cell = row.cells[column];
    const raw = cell.dataset.v ?? cell.textContent.trim();
    if (text) return raw.toLowerCase();
    const clean = raw.replace("−", "-").replace(/[%x,]/g, "").trim();
    if (clean === "inf") return 1e300;
    return clean === "" || Number.isNaN(Number(clean)) ? null : Number(clean);
  };
  const sortTable = (table, column, direction) => {
    const heads = $$("thead tr:last-child > *", table);
    const text = heads[column].dataset.type === "text";
    const body = table.tBodies[0];
    const sign = direction === "asc" ? 1 : -1;
    const rows = [...body.rows].map((row) => [row, value(row, column, text), Number(row.dataset.at)]);
    rows.sort(([, a, i], [, b, j]) => {
      if (a === null || b === null) return (a === null) - (b === null) || i - j;
      return sign * (text ? a.localeCompare(b) : a - b) || i - j;
    });
    body.append(...rows.map(([row]) => row));
    heads.forEach((head, k) => {
      if (k === column) head.setAttribute("aria-sort", direction === "asc" ? "ascending" : "descending");
      else head.removeAttribute("aria-sort");
    });
  };
  const sortable = (table) => {
    [...table.tBodies[0].rows].forEach((row, k) => { row.dataset.at = k; });
    $$("thead tr:last-child > *", table).forEach((head, column) => {
      if (head.classList.contains("w") || !head.textContent.trim()) return;
      const name = head.textContent.trim().replace(/\s+/g, " ");
      const button = make("button", undefined, { type: "button", class: "sort" });
      button.append(...head.childNodes);
      head.append(button);
      head.dataset.name = name;
      button.addEventListener("click", () => {
        const now = head.getAttribute("aria-sort");
        const first = head.dataset.type === "text" ? "ascending" : "descending";
        state.dir = now === null ? first.slice(0, -6) : now === "ascending" ? "desc" : "asc";
        state.sort = name;
        for (const other of $$("table[data-sortable]")) applySort(other);
        writeState();
      });
    });
  };
  const applySort = (table) => {
    const column = $$("thead tr:last-child > *", table).findIndex((head) => head.dataset.name === state.sort);
    if (column >= 0) sortTable(table, column, state.dir === "asc" ? "asc" : "desc");
  };

  // Filter, budget, highlight.
  const applyFilter = () => {
    const words = state.q.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of $$("table[data-sortable] tbody tr")) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
      if (!row.hidden && !row.closest("[hidden]")) shown += 1;
    }
    const status = $("[data-status]");
    if (status) status.textContent = words.length ? shown + (shown === 1 ? " row" : " rows") : "";
  };
  const applyBudget = () => {
    const views = $$("[data-budget-view]");
    if (!views.length) return;
    const known = views.some((view) => view.dataset.budgetView === state.budget);
    const chosen = known ? state.budget : views[0].dataset.budgetView;
    for (const view of views) view.hidden = view.dataset.budgetView !== chosen;
    for (const button of $$("[data-budget]")) button.setAttribute("aria-pressed", String(button.dataset.budget === chosen));
  };
  const applyHighlight = () => {
    const rows = $$("tr[data-key]");
    const row = rows.find((candidate) => candidate.dataset.key === state.hl);
    const label = row ? row.dataset.label : null;
    for (const each of rows) each.classList.toggle("lit", label !== null && each.dataset.label === label);
    for (const svg of $$(".picture svg")) svg.classList.toggle("focused", label !== null);
    for (const mark of $$(".picture svg [aria-label]")) {
      const words = mark.getAttribute("aria-label");
      mark.classList.toggle("lit", label !== null && (words === label || words.startsWith(label + ": ")));
    }
  };
  const rowsOfBoard = () => {
    for (const row of $$("table.board tbody tr[data-key]")) {
      row.addEventListener("click", (event) => {
        if (event.target.closest("a, summary, button")) return;
        state.hl = state.hl === row.dataset.key ? "" : row.dataset.key;
        applyHighlight();
        writeState();
      });
      const button = make("button", "◦", { type: "button", class: "pick", "aria-label": "Highlight " + row.dataset.label, title: "Highlight in the picture" });
      button.addEventListener("click", (event) => { event.stopPropagation(); row.click(); });
      row.cells[0].prepend(button);
    }
  };
  const tips = () => {
    const picture = $(".picture");
    if (!picture) return;
    const tip = make("div", "", { class: "tip", hidden: "" });
    document.body.append(tip);
    picture.addEventListener("pointermove", (event) => {
      const mark = event.target.closest("[aria-label]");
      const words = mark && mark !== picture ? mark.getAttribute("aria-label") : "";
      tip.hidden = !words.includes(": ");
      if (tip.hidden) return;
      tip.textContent = words;
      tip.style.left = Math.min(event.clientX + 12, innerWidth - tip.offsetWidth - 8) + "px";
      tip.style.top = event.clientY + 14 + "px";
    });
    picture.addEventListener("pointerleave", () => { tip.hidden = true; });
    picture.addEventListener("click", (event) => {
      const mark = event.target.closest("[aria-label]");
      const words = mark ? mark.getAttribute("aria-label") : "";
      const row = $$("tr[data-key]").find((each) => words.startsWith(each.dataset.label + ": "));
      state.hl = row && state.hl !== row.dataset.key ? row.dataset.key : "";
      applyHighlight();
      writeState();
    });
  };

  // Two rows against each other, by task, on the seeds that both have.
  const points = (x, digits = 1) => (x < 0 ? "−" : "+") + Math.abs(100 * x).toFixed(digits);
  const mean = (values) => values.reduce((sum, x) => sum + x, 0) / values.length;
  const interval = (differences, t) => {
    const n = differences.length, m = mean(differences);
    if (n < 2) return [m, null];
    const variance = differences.reduce((sum, x) => sum + (x - m) ** 2, 0) / (n - 1);
    return [m, t[Math.min(n - 1, t.length) - 1] * Math.sqrt(variance / n)];
  };
  const compare = () => {
    const place = $("[data-compare]");
    if (!place) return;
    const data = JSON.parse($("[data-scores]").textContent);
    if (data.rows.length < 2) return;
    const byKey = new Map(data.rows.map((row) => [row.key, row]));
    const selects = ["a", "b"].map((name) => {
      const select = $(`[data-${name}]`, place);
      for (const row of data.rows) select.append(make("option", `${row.label} (${row.budget}x)`, { value: row.key }));
      select.addEventListener("change", () => { state[name] = select.value; draw(); writeState(); });
      return select;
    });
    $("[data-swap]", place).addEventListener("click", () => { [state.a, state.b] = [selects[1].value, selects[0].value]; draw(); writeState(); });
    const draw = () => {
      const plain = data.rows.find((row) => row.label === data.reference) || data.rows[0];
      const a = byKey.get(state.a) || plain;
      const b = byKey.get(state.b) || data.rows.find((row) => row !== a);
      [selects[0].value, selects[1].value] = [a.key, b.key];
      const seeds = Object.keys(a.seeds).filter((seed) => seed in b.seeds);
      const over = (row, task) => mean(Object.values(row.seeds).map((s) => (task < 0 ? mean(s) : s[task])));
      const difference = (task) => interval(seeds.map((s) => (task < 0 ? mean(b.seeds[s]) - mean(a.seeds[s]) : b.seeds[s][task] - a.seeds[s][task])), data.t);
      const table = $("[data-pair]", place);
      const head = make("thead"), body = make("tbody"), foot = make("tfoot");
      const line = make("tr");
      for (const [k, words] of ["task", "A, %", "B, %", "B − A, points", "± 95 %", " "].entries())
        line.append(make(words.trim() ? "th" : "td", words, words.trim() ? { scope: "col", class: k ? "n" : "stick" } : {}));
      head.append(line);
      const all = [...data.tasks.keys(), -1].map((task) => [task, seeds.length ? difference(task) : [NaN, null]]);
      const reach = readable(all.map(([, [m, half]]) => [m || 0, half || 0]));
      for (const [task, [m, half]] of all) {
        const row = make("tr");
        row.append(named("th", task < 0 ? "macro mean" : data.tasks[task], { scope: "row", class: "stick" }));
        row.append(make("td", (100 * over(a, task)).toFixed(1), { class: "n" }), make("td", (100 * over(b, task)).toFixed(1), { class: "n" }));
        row.append(make("td", Number.isNaN(m) ? "no shared seed" : points(m), { class: "n" }));
        row.append(make("td", half === null ? "–" : (100 * half).toFixed(1), { class: "n" }));
        const cell = make("td", undefined, { class: "w" });
        if (!Number.isNaN(m)) cell.append(whisker(m, half, reach));
        row.append(cell);
        (task < 0 ? foot : body).append(row);
      }
      table.replaceChildren(head, body, foot);
      const [m, half] = all[all.length - 1][1];
      const told = (x, y) => data.better.some(([better, worse]) => better === x.key && worse === y.key);
      const verdict = !seeds.length ? "They share no seed." :
        `B is ${points(m)} points from A${half === null ? " on the one seed that both have" : ` (± ${(100 * half).toFixed(1)}) over ${seeds.length} shared seeds`}.` +
        (!(a.tested && b.tested) ? " The board tests pairs of ranked rows at its first budget alone." :
          told(b, a) ? " The board tells them apart: B is better." : told(a, b) ? " The board tells them apart: A is better." : " The board does not tell them apart.") +
        (a.budget !== b.budget ? " Their budgets differ." : "");
      $("[data-verdict]", place).textContent = verdict;
    };
    // As the board's axis: beyond the differences by half of what they span, or three times the half width of a usual interval.
    const readable = (found) => {
      const low = Math.min(0, ...found.map(([m]) => m)), high = Math.max(0, ...found.map(([m]) => m));
      const halves = found.map(([, half]) => half).filter(Boolean).sort((x, y) => x - y);
      const room = Math.max((high - low) / 2, 3 * (halves[Math.floor((halves.length - 1) / 4)] || 0));
      const left = Math.max(low - room, Math.min(low, ...found.map(([m, half]) => m - half)));
      const right = Math.min(high + room, Math.max(high, ...found.map(([m, half]) => m + half)));
      return Math.min(1, Math.max(0.01, -left, right));
    };
    const whisker = (m, half, reach) => {
      const NS = "http://www.w3.org/2000/svg";
      const at = (x) => 66 + (x / reach) * 60;
      const svg = document.createElementNS(NS, "svg");
      for (const [name, text] of [["class", "whisker"], ["viewBox", "0 0 132 20"], ["width", "132"], ["height", "20"], ["aria-hidden", "true"]]) svg.setAttribute(name, text);
      const add = (tag, attributes) => { const node = document.createElementNS(NS, tag); for (const k in attributes) node.setAttribute(k, attributes[k]); svg.append(node); };
      add("path", { class: "zero", d: "M66 1V19" });
      if (half !== null) add("path", { class: "whisk", d: `M${at(Math.max(m - half, -reach))} 10H${at(Math.min(m + half, reach))}` });
      if (half !== null && m - half < -reach * 1.001) add("path", { class: "out", d: "M0 10l6 -3.5v7Z" });
      if (half !== null && m + half > reach * 1.001) add("path", { class: "out", d: "M132 10l-6 -3.5v7Z" });
      add("circle", { class: half !== null && Math.abs(m) > half ? "sure" : "open", cx: at(m), cy: 10, r: 3.6 });
      return svg;
    };
    place.hidden = false;
    redraw.push(draw);
  };

  const redraw = [];
  const apply = () => {
    readState();
    const filter = $("[data-filter]");
    if (filter) filter.value = state.q;
    applyBudget();
    if (state.sort) $$("table[data-sortable]").forEach(applySort);
    applyFilter();
    applyHighlight();
    redraw.forEach((draw) => draw());
  };
  addScheme();
  $$("table[data-sortable]").forEach(sortable);
  for (const tools of $$("[data-tools]")) tools.hidden = false;
  const filter = $("[data-filter]");
  if (filter) filter.addEventListener("input", () => { state.q = filter.value; applyFilter(); writeState(); });
  for (const button of $$("[data-budget]"))
    button.addEventListener("click", () => { state.budget = button.dataset.budget; applyBudget(); applyFilter(); writeState(); });
  rowsOfBoard();
  tips();
  compare();
  document.addEventListener("keydown", (event) => {
    if (event.key === "/" && filter && !/^(INPUT|SELECT|TEXTAREA)$/.test(document.activeElement.tagName)) { event.preventDefault(); filter.focus(); }
    if (event.key === "Escape" && (state.q || state.hl)) { state.q = state.hl = ""; if (filter) filter.value = ""; applyFilter(); applyHighlight(); writeState(); }
  });
  addEventListener("hashchange", apply);
  apply();
})();
