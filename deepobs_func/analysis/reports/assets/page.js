"use strict";
/* The page: what the reader chooses, and what follows from it. */
(async () => {
  const byId = (id) => document.getElementById(id);
  const bytes = (id) => Uint8Array.from(atob(byId(id).textContent.trim()), (each) => each.charCodeAt(0));
  const unpack = (id) => new Response(new Blob([bytes(id)]).stream().pipeThrough(new DecompressionStream("gzip")));

  const report = JSON.parse(byId("report-data").textContent);
  report.numbers = new Float64Array(await unpack("report-numbers").arrayBuffer());
  report.byName = new Map(report.optimizers.map((each) => [each.name, each]));
  const script = document.createElement("script");
  script.textContent = await unpack("report-plotly").text();
  document.head.append(script);

  const choice = { measure: "final", quantity: "", clock: "epoch", targets: {}, hidden: new Set() };
  let axis = "epoch";
  const sorted = {}; // by table: {key, down}

  /* A number as packing.number writes it. */
  const number = (value) => {
    if (value === null || Number.isNaN(value)) return "-";
    if (!Number.isFinite(value)) return value > 0 ? "∞" : "-∞";
    if (value === 0) return "0";
    const size = Math.abs(value);
    if (size < 1e-4 || size >= 1e5) return value.toExponential(3).replace(/e([+-])(\d)$/, "e$10$2");
    return value.toFixed(Math.max(0, 3 - Math.floor(Math.log10(size))));
  };
  const ranksText = (low, high) => (low === high ? number2(low) : `${number2(low)} to ${number2(high)}`);
  const number2 = (value) => String(Math.round(value * 100) / 100);
  const probability = (p) => (p < 0.001 ? "< 0.001" : p.toFixed(3));
  const between = (row) => (Number.isNaN(row.low) ? "none" : `${number(row.low)} to ${number(row.high)}`);

  const make = (tag, properties = {}, ...children) => {
    const { data, ...rest } = properties, element = Object.assign(document.createElement(tag), rest);
    Object.assign(element.dataset, data || {});
    element.append(...children);
    return element;
  };
  const swatch = (name) => {
    const look = report.byName.get(name), made = make("span", { className: "swatch", ariaHidden: "true" });
    made.style.borderTopColor = look.colour === "#000000" ? "var(--black)" : look.colour;
    made.style.borderTopStyle = look.dashes.length ? (look.dashes[0] < 2 ? "dotted" : "dashed") : "solid";
    return made;
  };

  const ANSWERS = {
    only: "nothing to compare with", alone: "better than all others", leads: "leads, not alone", tied: "not told apart from the first",
    worse: "worse than the first", untested: "cannot be tested",
  };
  const valueTitle = () => {
    if (choice.measure === "time") return `median ${Plots.LABELS[choice.clock]}${["epoch", "step"].includes(choice.clock) ? "s" : ""} to the target`;
    return choice.measure === "final" ? "mean after the last epoch" : "mean at its best epoch";
  };

  const COLUMNS = {
    overall: [
      ["rank", "rank", (row) => row.place, (row) => number2(row.place)],
      ["optimizer", "optimizer", (row) => row.optimizer, (row) => [swatch(row.optimizer), row.optimizer]],
      ["mean rank", "meanRank", (row) => row.meanRank, (row) => row.meanRank.toFixed(2)],
      ["ranks left by the tests", "lowest", (row) => row.lowest, (row) => ranksText(row.lowest, row.highest)],
      ["first on", "first", (row) => row.first, (row) => `${row.first} of ${row.problems}`],
      ["none better on", "notWorse", (row) => row.notWorse, (row) => `${row.notWorse} of ${row.problems}`],
    ],
    problem: [
      ["rank", "rank", (row) => row.rank, (row) => number2(row.rank)],
      ["optimizer", "optimizer", (row) => row.optimizer, (row) => [swatch(row.optimizer), row.optimizer]],
      [valueTitle, "value", (row) => row.value, (row) => number(row.value)],
      ["95% interval", "low", (row) => row.low, between],
      ["ranks left", "lowest", (row) => row.lowest, (row) => ranksText(row.lowest, row.highest)],
      ["p, to the first", "pLeader", (row) => row.pLeader, (row) => (Number.isNaN(row.pLeader) ? "-" : probability(row.pLeader))],
      ["verdict", "answer", (row) => row.answer, (row) => ANSWERS[row.answer]],
      [() => (choice.measure === "time" ? "reached" : "seeds"), "reached", (row) => row.reached, (row) => (choice.measure === "time" ? `${row.reached} of ${row.seeds}` : `${row.seeds}`)],
      ["setting", "setting", (row) => row.shown.lr, (row) => row.shown.setting],
    ],
    scores: [
      ["rank", "rank", (row) => row.rank, (row) => number2(row.rank)],
      ["optimizer", "optimizer", (row) => row.optimizer, (row) => [swatch(row.optimizer), row.optimizer]],
      ["score", "score", (row) => row.score, (row) => row.score.toFixed(3)],
      ["fastest on", "fastest", (row) => row.fastest, (row) => `${row.fastest} of ${row.problems}`],
      ["reached the target on", "arrived", (row) => row.arrived, (row) => `${row.arrived} of ${row.problems}`],
    ],
    pairs: [
      ["one", "one", (row) => row.one, (row) => [swatch(row.one), row.one]],
      ["another", "optimizer", (row) => row.optimizer, (row) => [swatch(row.optimizer), row.optimizer]],
      ["p, adjusted", "rank", (row) => row.rank, (row) => probability(row.rank)],
    ],
  };

  const compare = (a, b) => {
    if (typeof a === "string") return Ranking.byName(a, b);
    const [x, y] = [a, b].map((value) => (Number.isNaN(value) ? Infinity : value));
    return x === y ? 0 : x - y;
  };
  const fill = (table, columns, rows) => {
    const state = sorted[table.id] || { key: "rank", down: false };
    const column = columns.find((each) => each[1] === state.key) || columns[0];
    const placed = [...rows].sort((a, b) => (state.down ? -1 : 1) * compare(column[2](a), column[2](b)));
    const head = make("tr");
    for (const [title, key] of columns) {
      const text = typeof title === "function" ? title() : title;
      const button = make("button", { type: "button", className: "sort", textContent: text, data: { key } });
      const cell = make("th", { scope: "col" }, button);
      cell.setAttribute("aria-sort", state.key === key ? (state.down ? "descending" : "ascending") : "none");
      button.addEventListener("click", () => {
        const now = sorted[table.id] || { key: "rank", down: false };
        sorted[table.id] = { key, down: now.key === key && !now.down };
        fill(table, columns, rows);
        table.querySelector(`[data-key="${key}"]`).focus();
      });
      head.append(cell);
    }
    const body = make("tbody");
    for (const row of placed) {
      const line = make("tr", { data: { optimizer: row.optimizer } });
      if (row.answer) line.classList.add(row.answer);
      columns.forEach(([title, key, , shown], index) => {
        const cell = make(index === 1 ? "th" : "td", { data: { label: typeof title === "function" ? title() : title, key } });
        if (index === 1) cell.scope = "row";
        cell.append(...[shown(row)].flat());
        line.append(cell);
      });
      body.append(line);
    }
    table.tHead.replaceChildren(head);
    table.tBodies[0].replaceWith(body);
  };

  /* The verdict in words, as page.verdict_text writes the first one. */
  const list = (names) => {
    const shown = names.length > 6 ? [...names.slice(0, 5), `${names.length - 5} others`] : names;
    return shown.length < 2 ? shown.join("") : `${shown.slice(0, -1).join(", ")} and ${shown.at(-1)}`;
  };
  const verdict = (rows) => {
    if (!rows.length) return "No optimizer that is shown has this metric.";
    const [first, ...others] = rows;
    if (!Number.isFinite(first.value))
      return choice.measure === "time" ? "No optimizer reached the target with half of its seeds." : "No optimizer has a finite mean.";
    if (!others.length) return `${first.optimizer} is the only optimizer: there is nothing to compare it with.`;
    if (first.answer === "alone") return `${first.optimizer} is better than all others.`;
    const tied = others.filter((each) => each.answer === "tied").map((each) => each.optimizer);
    const untested = others.filter((each) => each.answer === "untested").map((each) => each.optimizer);
    const parts = [`${first.optimizer} leads`];
    if (tied.length) parts.push(`${list(tied)} cannot be told apart from it`);
    if (untested.length) parts.push(`${list(untested)} cannot be tested against it (one seed, or a seed that diverged)`);
    return `${parts.join("; ")}.`;
  };
  const overallText = ({ table, shared, placed, pFriedman }) => {
    if (!placed.length) return "Nothing is left to compare.";
    if (!shared.length) return "No problem was run by all optimizers that are shown, so that there is no ranking over problems.";
    const count = `${shared.length} problem${shared.length === 1 ? "" : "s"}`;
    if (table.length < 2) return `${table[0].optimizer} is the only optimizer: there is nothing to rank.`;
    const [first, ...others] = table, equal = others.filter((each) => each.meanRank === first.meanRank).map((each) => each.optimizer);
    const lead = equal.length ? `${list([first.optimizer, ...equal])} share the best mean rank` : `${first.optimizer} has the best mean rank`;
    const left = placed.length - shared.length;
    const alike = Number.isNaN(pFriedman) ? "" : pFriedman < 1 - report.level
      ? ` Ranks differ by more than chance (Friedman's test, p ${pFriedman < 0.001 ? "" : "= "}${probability(pFriedman)}).`
      : ` Over all problems, ranks do not differ by more than chance (Friedman's test, p ${pFriedman < 0.001 ? "" : "= "}${probability(pFriedman)}).`;
    return `${lead}, ${first.meanRank.toFixed(2)} of ${table.length}, over ${count}: ${first.optimizer} is first on ${first.first}, and on ${first.notWorse} no other one is better by the tests.${alike}` +
      (left ? ` ${left} other problem${left === 1 ? " was" : "s were"} not run by all, and ${left === 1 ? "does" : "do"} not count here.` : "");
  };

  const draws = new Map(), visible = new Set();
  const later = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) { visible.delete(entry.target); continue; }
      visible.add(entry.target);
      drawNow(entry.target);
    }
  }, { rootMargin: "300px" });
  const drawNow = (element) => {
    if (element.dataset.drawn === "yes") return;
    const made = draws.get(element)(), figure = element.closest("figure");
    figure.hidden = !made[0].length;
    if (figure.hidden) {
      element.dataset.drawn = "yes";
      figure.parentElement.querySelectorAll(".plot.js-plotly-plot").forEach((each) => Plotly.Plots.resize(each));
      return;
    }
    Plots.draw(element, made).then(() => {
      element.dataset.drawn = "yes";
      if (element.dataset.listens) return;
      element.dataset.listens = "yes";
      element.on("plotly_legendclick", (event) => { toggle(event.data[event.curveNumber].optimizer); return false; });
      element.on("plotly_legenddoubleclick", () => false);
    });
  };
  const plot = (id, draw) => {
    const element = byId(id);
    if (!element) return;
    if (!draws.has(element)) later.observe(element);
    draws.set(element, draw);
    element.dataset.drawn = "no";
    element.closest("figure").hidden = false;
    if (visible.has(element)) drawNow(element);
  };
  const drawAll = () => draws.forEach((_, element) => drawNow(element));

  const toggle = (name) => {
    const box = document.querySelector(`#optimizers input[data-index="${report.optimizers.findIndex((each) => each.name === name)}"]`);
    if (box) { box.checked = !box.checked; box.dispatchEvent(new Event("change", { bubbles: true })); }
  };

  const places = (rows, key) => rows.forEach((row) => {
    row.rank = rows.filter((each) => each[key] > row[key]).length + (1 + rows.filter((each) => each[key] === row[key]).length) / 2;
  });
  const updateOverall = () => {
    const profiles = Scoring.profiles(report, choice);
    profiles.rows.forEach((row) => { row.problems = profiles.problems; });
    places(profiles.rows, "score");
    byId("scores-wrap").hidden = !profiles.rows.length;
    byId("no-scores").hidden = profiles.rows.length > 0;
    fill(byId("scores"), COLUMNS.scores, profiles.rows);
    plot("profiles-plot", () => Overall.profiles(report, choice, profiles));
    plot("targets-plot", () => Overall.targets(report, Scoring.byTightness(report, choice)));
    const told = Scoring.differences(report, choice);
    byId("differences-text").textContent = differencesText(told);
    fill(byId("pairs"), COLUMNS.pairs, (told ? told.pairs : []).map(([one, optimizer, rank]) => ({ one, optimizer, rank })));
    byId("pairs-wrap").hidden = !told;
    plot("differences-plot", () => Overall.differences(report, told));
    return { profiles, told };
  };
  const differencesText = (told) => {
    if (!told) return `There are fewer than two optimizers, more than ${Scoring.MANY}, or no problem that all of them have.`;
    const p = Number.isNaN(told.pFriedman) ? "" : ` Friedman's test: p ${told.pFriedman < 0.001 ? "" : "= "}${probability(told.pFriedman)}.`;
    return `Mean ranks over ${told.problems.length} problem${told.problems.length === 1 ? "" : "s"}.${p}`;
  };
  const updateTuning = (problem, index) => {
    plot(`tuning-${index}`, () => Overall.tuning(report, problem, choice));
    plot(`wins-${index}`, () => Overall.wins(report, problem, choice));
    const leader = byId(`leader-${index}`);
    if (leader) leader.textContent = Overall.wins(report, problem, choice)[2] || "the first one";
    const quantity = byId(`quantity-${index}`);
    if (quantity) plot(`tracked-${index}`, () => Overall.tracked(report, problem, choice, quantity.value));
    document.querySelectorAll(`#good-${index} tbody tr`).forEach((row) => { row.hidden = choice.hidden.has(row.dataset.optimizer); });
  };

  const update = () => {
    const found = Ranking.overall(report, choice);
    let place = 0;
    found.table.forEach((row, index) => {
      const equals = found.table.filter((each) => each.meanRank === row.meanRank).length;
      if (!index || found.table[index - 1].meanRank !== row.meanRank) place = index + (1 + equals) / 2;
      row.place = place;
    });
    byId("verdict-text").textContent = overallText(found);
    byId("overall-wrap").hidden = !found.table.length;
    fill(byId("overall"), COLUMNS.overall, found.table);
    plot("ranks-plot", () => (found.table.length > 1 ? Plots.ranks(report, found.table) : [[], {}]));
    const placed = new Map(found.placed);
    report.problems.forEach((problem, index) => {
      const rows = placed.get(problem.name) || [];
      byId(`verdict-${index}`).textContent = verdict(rows);
      const line = byId(`line-${index}`);
      if (line) line.textContent = verdict(rows);
      fill(byId(`table-${index}`), COLUMNS.problem, rows);
      byId(`wrap-${index}`).hidden = !rows.length;
      plot(`curves-${index}`, () => Plots.curves(report, problem, choice, problem.shown.some((each) => axis in each.clocks) ? axis : "epoch"));
      plot(`rates-${index}`, () => Plots.rates(report, problem, choice));
      updateTuning(problem, index);
    });
    document.body.dataset.measure = choice.measure;
    window.deepobs.state = { choice, found, overall: updateOverall() };
  };

  const theme = (name) => {
    if (name === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = name;
    byId("theme").value = name;
    draws.forEach((_, element) => { element.dataset.drawn = "no"; });
    visible.forEach(drawNow);
  };
  const remembered = (value) => {
    try {
      if (value) localStorage.setItem("deepobs-theme", value);
      return localStorage.getItem("deepobs-theme") || "auto";
    } catch { return value || "auto"; }
  };

  window.deepobs = { report, choice, drawAll, update, verdict };
  const select = (id, change) => byId(id).addEventListener("change", (event) => { change(event.target.value); update(); });
  select("measure", (value) => { choice.measure = value; });
  select("quantity", (value) => { choice.quantity = value; });
  select("clock", (value) => { choice.clock = value; });
  select("axis", (value) => { axis = value; });
  document.querySelectorAll("select.tracked").forEach((each) => each.addEventListener("change", update));
  document.querySelectorAll("input.target").forEach((input) => input.addEventListener("input", () => {
    const name = report.problems[Number(input.dataset.problem)].name;
    if (input.value.trim() === "" || !Number.isFinite(Number(input.value))) delete choice.targets[name];
    else choice.targets[name] = Number(input.value);
    update();
  }));
  document.querySelectorAll("#optimizers input[type=checkbox]").forEach((box) => box.addEventListener("change", () => {
    const { name } = report.optimizers[Number(box.dataset.index)];
    if (box.checked) choice.hidden.delete(name);
    else choice.hidden.add(name);
    update();
  }));
  const boxes = () => [...document.querySelectorAll("#optimizers input[type=checkbox]")].filter((box) => !box.closest("label").hidden);
  const every = (checked) => () => {
    for (const box of boxes()) {
      box.checked = checked;
      const { name } = report.optimizers[Number(box.dataset.index)];
      if (checked) choice.hidden.delete(name);
      else choice.hidden.add(name);
    }
    update();
  };
  byId("all").addEventListener("click", every(true));
  byId("none").addEventListener("click", every(false));
  byId("search").addEventListener("input", (event) => {
    const text = event.target.value.toLowerCase();
    document.querySelectorAll("#optimizers label").forEach((label) => { label.hidden = !label.textContent.toLowerCase().includes(text); });
  });
  byId("theme").addEventListener("change", (event) => theme(remembered(event.target.value)));
  byId("print").addEventListener("click", () => window.print());
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => theme(byId("theme").value));
  window.addEventListener("beforeprint", () => { document.documentElement.dataset.theme = "light"; draws.forEach((_, element) => { element.dataset.drawn = "no"; }); drawAll(); });
  window.addEventListener("afterprint", () => theme(remembered()));
  document.querySelectorAll(".controls, .theme, .scripted").forEach((each) => { each.hidden = false; });
  theme(remembered());
  update();
  document.body.dataset.ready = "yes";
})();
