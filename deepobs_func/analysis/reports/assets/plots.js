"use strict";
/* What is drawn of a problem, by plotly.js. */
const Plots = (() => {
  const DASH = (dashes) => (dashes.length ? dashes.map((length) => `${length * 2}px`).join(",") : "solid");
  const LABELS = { epoch: "epoch", step: "step", seconds: "seconds of training", gradients: "gradient evaluations", cost: "gradient equivalents" };
  const words = (quantity) => quantity.replace("valid_", "validation_").replaceAll("_", " ");
  /* A name is a name: no tags, and no mathematics. */
  const plain = (name) => name.replace(/[&<>$]/g, (each) => `&#${each.charCodeAt(0)};`);
  const CONFIG = {
    showSendToCloud: false, plotlyServerURL: "", displaylogo: false, responsive: true,
    modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"],
  };
  const theme = () => {
    const style = getComputedStyle(document.documentElement);
    return (name) => style.getPropertyValue(`--${name}`).trim();
  };
  /* Black is not seen on black. */
  const colourOf = (optimizer) => (optimizer.colour === "#000000" ? theme()("black") : optimizer.colour);
  const faint = (colour, alpha) => {
    const parts = colour.match(/[0-9a-f]{2}/gi).map((part) => parseInt(part, 16));
    return `rgba(${parts.join(",")},${alpha})`;
  };

  const layout = (xTitle, yTitle, more = {}) => {
    const value = theme(), axis = { gridcolor: value("grid"), linecolor: value("line"), zeroline: false, automargin: true };
    return {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: value("text"), size: 12, family: "inherit" },
      margin: { l: 8, r: 8, t: 8, b: 8 }, height: 340, hovermode: "closest", separators: ".",
      legend: { orientation: "h", y: -0.22, yanchor: "top", x: 0, font: { size: 11 } },
      hoverlabel: { namelength: 40 },
      xaxis: { ...axis, title: { text: xTitle, standoff: 6 }, ...(more.xaxis || {}) },
      yaxis: { ...axis, title: { text: yTitle, standoff: 6 }, ...(more.yaxis || {}) },
      shapes: more.shapes || [], showlegend: more.showlegend !== false,
    };
  };

  /* What happens after the first tenth is in view, and what ends well. */
  const view = (curves, higher) => {
    const sign = higher ? -1 : 1, later = [], starts = [];
    for (const means of curves) {
      later.push(...means.slice(Math.max(1, Math.floor(means.length / 10))).filter(Number.isFinite).map((value) => sign * value));
      if (Number.isFinite(means[0])) starts.push(sign * means[0]);
    }
    if (!later.length || !starts.length) return undefined;
    later.sort((a, b) => a - b);
    const best = Math.min(later[0], ...starts), start = Math.max(...starts);
    let worst = later[Math.floor(0.98 * (later.length - 1))];
    if (worst - best >= 0.5 * (start - best)) worst = Math.max(worst, start);
    const margin = 0.06 * (worst - best) || 0.05 * Math.abs(worst) || 1;
    const ends = [sign * (best - margin), sign * (worst + margin)];
    return ends[0] < ends[1] ? ends : ends.reverse();
  };

  const curves = (report, problem, choice, x) => {
    const quantity = choice.quantity || problem.metric, traces = [], means = [];
    for (const each of problem.shown) {
      if (choice.hidden.has(each.optimizer) || !(quantity in each.curves) || !(x in each.clocks)) continue;
      const optimizer = report.byName.get(each.optimizer), colour = colourOf(optimizer);
      const table = Ranking.rows(report.numbers, each.curves[quantity]);
      const at = Ranking.rows(report.numbers, each.clocks[x]).map(Numbers.mean);
      const mean = table.map(Numbers.mean);
      const spread = table.map((row) => {
        const middle = Numbers.mean(row);
        return row.length > 1 ? Math.sqrt(row.reduce((sum, value) => sum + (value - middle) ** 2, 0) / (row.length - 1)) : NaN;
      });
      const known = at.map((_, i) => i).filter((i) => Number.isFinite(mean[i]) && Number.isFinite(spread[i]));
      const name = plain(each.optimizer);
      if (known.length)
        traces.push({
          x: [...known.map((i) => at[i]), ...known.map((i) => at[i]).reverse()],
          y: [...known.map((i) => mean[i] + spread[i]), ...known.map((i) => mean[i] - spread[i]).reverse()],
          fill: "toself", fillcolor: faint(colour, 0.18), line: { width: 0 }, mode: "lines", hoverinfo: "skip",
          showlegend: false, legendgroup: name,
        });
      means.push(mean);
      traces.push({
        x: at, y: mean.map((value) => (Number.isFinite(value) ? value : null)), mode: "lines", name, legendgroup: name,
        line: { color: colour, width: 2, dash: DASH(optimizer.dashes) }, optimizer: each.optimizer,
        hovertemplate: `%{fullData.name}<br>${LABELS[x]} %{x:.5g}<br>mean %{y:.5g}<extra>${each.seeds.length} seeds</extra>`,
      });
    }
    if (!means.some((mean) => mean.slice(1).some(Number.isFinite))) return [[], {}];
    const target = Ranking.targetOf(problem, choice, quantity);
    const line = Number.isFinite(target)
      ? [{ type: "line", xref: "paper", x0: 0, x1: 1, y0: target, y1: target, line: { color: theme()("muted"), width: 1, dash: "dot" } }]
      : [];
    const last = Math.max(0, ...traces.flatMap((trace) => trace.x).filter(Number.isFinite));
    const xaxis = x === "epoch" && last <= 12 ? { dtick: last <= 6 ? 1 : 2 } : {};
    const range = view(means, Ranking.isAccuracy(quantity));
    return [traces, layout(LABELS[x], words(quantity), { shapes: line, xaxis, yaxis: range ? { range } : {}, showlegend: traces.length < 26 })];
  };

  const rates = (report, problem, choice) => {
    const traces = [], higher = Ranking.isAccuracy(problem.metric), every = [];
    for (const each of problem.shown) {
      if (choice.hidden.has(each.optimizer) || !each.rates || each.rates[1] < 2) continue;
      const optimizer = report.byName.get(each.optimizer), colour = colourOf(optimizer), name = plain(each.optimizer);
      const points = Ranking.rows(report.numbers, each.rates);
      every.push(...points.map((point) => point[1]).filter(Number.isFinite));
      traces.push({
        x: points.map((point) => point[0]), y: points.map((point) => (Number.isFinite(point[1]) ? point[1] : null)), name,
        mode: "lines+markers", line: { color: colour, width: 1.6, dash: DASH(optimizer.dashes) }, marker: { size: 5 },
        optimizer: each.optimizer, hovertemplate: `%{fullData.name}<br>learning rate %{x:.3g}<br>%{y:.5g}<extra></extra>`,
      });
    }
    every.sort((a, b) => a - b);
    const yaxis = {};
    if (!higher && every.length > 4) {
      const best = every[0], high = Math.min(every[every.length - 1], best + 6 * (every[Math.floor(every.length / 2)] - best));
      const margin = 0.06 * (high - best) || 1;
      yaxis.range = [best - margin, high + margin];
    }
    const xaxis = { type: "log", exponentformat: "power", dtick: 1 };
    return [traces, layout("learning rate", `final ${words(problem.metric)}`, { xaxis, yaxis, showlegend: traces.length < 26 })];
  };

  const short = (name) => (name.length > 28 ? `${name.slice(0, 14)}…${name.slice(-13)}` : name);

  /* The mean ranks, with what the tests leave of them. */
  const ranks = (report, table) => {
    const shown = [...table].reverse(), value = theme();
    const colours = shown.map((row) => colourOf(report.byName.get(row.optimizer)));
    const trace = {
      type: "scatter", mode: "markers", orientation: "h", x: shown.map((row) => row.meanRank), y: shown.map((_, i) => i), text: shown.map((row) => plain(row.optimizer)),
      marker: { color: colours, size: 11, line: { color: value("text"), width: 1 } },
      error_x: {
        type: "data", symmetric: false, array: shown.map((row) => row.highest - row.meanRank),
        arrayminus: shown.map((row) => row.meanRank - row.lowest), color: value("muted"), thickness: 2, width: 5,
      },
      hovertemplate: "%{text}<br>mean rank %{x:.2f}<extra></extra>",
    };
    const made = layout("mean rank", "", {
      xaxis: { range: [0.8, Math.max(2, table.length) + 0.2], dtick: Math.ceil(table.length / 10) }, showlegend: false,
    });
    made.height = 90 + 26 * table.length;
    Object.assign(made.yaxis, {
      range: [-0.6, table.length - 0.4], tickvals: shown.map((_, i) => i), ticktext: shown.map((row) => plain(short(row.optimizer))),
    });
    return [[trace], made];
  };

  const draw = (element, [traces, made]) => {
    element.style.height = `${made.height}px`;
    return Plotly.react(element, traces, made, CONFIG);
  };
  return { curves, rates, ranks, draw, words, plain, short, layout, colourOf, theme, faint, DASH, LABELS };
})();
