"use strict";
/* What is drawn over all problems, and of tuning and tracked quantities, by plotly.js. */
const Overall = (() => {
  const { layout, colourOf, theme, faint, plain, DASH, LABELS } = Plots;
  const MANY = 26; // lines, beyond which a legend is longer than the plot
  const lineOf = (report, name) => {
    const optimizer = report.byName.get(name);
    return { color: colourOf(optimizer), width: 2, dash: DASH(optimizer.dashes) };
  };
  const legend = (traces) => ({ showlegend: traces.filter((trace) => trace.showlegend !== false).length < MANY });

  const profiles = (report, choice, found) => {
    const traces = found.rows.map((row) => ({
      x: found.taus, y: row.shares, mode: "lines", name: plain(row.optimizer), optimizer: row.optimizer,
      line: { ...lineOf(report, row.optimizer), shape: "hv" },
      hovertemplate: "%{fullData.name}<br>at most %{x:.2f} times the fastest on %{y:.0%} of the problems<extra></extra>",
    }));
    const unit = LABELS[choice.clock].replace(/^(epoch|step|gradient evaluation)$/, "$1s");
    const made = layout(`times the fastest, in ${unit}`, `share of ${found.problems} problem${found.problems === 1 ? "" : "s"}`, {
      xaxis: { range: [1, 4] }, yaxis: { range: [-0.03, 1.03] }, ...legend(traces),
    });
    return [found.problems ? traces : [], made];
  };

  const targets = (report, scores) => {
    const ticks = report.tightness.map((tight) => `${Math.round(1000 * tight) / 10}%`), at = ticks.map((_, i) => i);
    const traces = [...scores].map(([name, row]) => ({
      x: at, y: row, customdata: ticks, mode: "lines+markers", name: plain(name), optimizer: name, line: lineOf(report, name), marker: { size: 5 },
      hovertemplate: "%{fullData.name}<br>targets at %{customdata} of the way<br>score %{y:.3f}<extra></extra>",
    }));
    const one = report.tightness.indexOf(1), shapes = [{
      type: "line", yref: "paper", y0: 0, y1: 1, x0: one, x1: one, line: { color: theme()("muted"), width: 1, dash: "dot" },
    }];
    const made = layout("way from before training to the target", "score", {
      xaxis: { tickvals: at, ticktext: ticks, tickangle: -45 }, yaxis: { range: [-0.03, 1.03] }, shapes, ...legend(traces),
    });
    made.legend.y = -0.4; // below the turned ticks
    return [traces, made];
  };

  /* Mean ranks on an axis, best on the left; a bar joins optimizers that cannot be told apart. */
  const differences = (report, found) => {
    if (!found) return [[], {}];
    const { names, meanRanks, groups } = found, count = names.length, value = theme(), at = new Map(names.map((name, i) => [name, i]));
    const lanes = Math.ceil(count / 2), ends = [1 - 0.05 * count, count + 0.05 * count];
    const traces = names.map((name, i) => {
      const left = i < lanes, row = -1.5 - groups.length - (left ? i : count - 1 - i);
      return {
        x: [meanRanks[i], meanRanks[i], ends[left ? 0 : 1]], y: [0, row, row], mode: "lines+text", text: ["", "", `${plain(Plots.short(name))} ${meanRanks[i].toFixed(2)}`],
        textposition: left ? "top right" : "top left", textfont: { color: value("text") }, line: { ...lineOf(report, name), width: 1.5 },
        optimizer: name, name: plain(name), hoverinfo: "name",
      };
    });
    groups.forEach((group, i) => traces.push({
      x: [meanRanks[at.get(group[0])] - 0.03, meanRanks[at.get(group.at(-1))] + 0.03], y: [-1 - i, -1 - i], mode: "lines",
      line: { color: value("text"), width: 6 }, hoverinfo: "skip",
    }));
    const made = layout("mean rank", "", {
      xaxis: { range: ends, side: "top", dtick: Math.ceil(count / 10) || 1, showgrid: true },
      yaxis: { visible: false, range: [-1.2 - groups.length - lanes, 0] }, showlegend: false,
    });
    made.height = 90 + 26 * (lanes + groups.length + 1);
    return [traces, made];
  };

  const shownWith = (problem, choice, has) => problem.shown.filter((each) => !choice.hidden.has(each.optimizer) && has(each));
  const longest = (traces) => Math.max(0, ...traces.map((trace) => trace.x.length));
  const whole = (count) => (count <= 12 ? { dtick: 1 } : {});
  const known = (pairs) => pairs.filter(([, ...values]) => values.every(Number.isFinite));
  const band = (report, name, pairs) => ({
    x: [...pairs.map((pair) => pair[0]), ...pairs.map((pair) => pair[0]).reverse()],
    y: [...pairs.map((pair) => pair[2]), ...pairs.map((pair) => pair[1]).reverse()],
    fill: "toself", fillcolor: faint(colourOf(report.byName.get(name)), 0.15), line: { width: 0 }, mode: "lines", hoverinfo: "skip", showlegend: false,
  });

  const tuning = (report, problem, choice) => {
    const higher = Ranking.isAccuracy(problem.metric), traces = [];
    for (const each of shownWith(problem, choice, (one) => one.trials)) {
      const values = Trials.of(report, each), found = Trials.curve(values, report.margins[values.length], higher);
      const ends = known(found.map(({ k, low, high }) => [k, low, high]));
      if (ends.length) traces.push(band(report, each.optimizer, ends));
      traces.push({
        x: found.map(({ k }) => k), y: found.map(({ median }) => (Number.isFinite(median) ? median : null)), mode: "lines", name: plain(each.optimizer),
        customdata: found.map(({ expected }) => (Number.isFinite(expected) ? expected.toPrecision(5) : "infinite")), optimizer: each.optimizer,
        line: lineOf(report, each.optimizer), hovertemplate: "%{fullData.name}<br>%{x} trials<br>median best %{y:.5g}<br>expected best %{customdata}<extra></extra>",
      });
    }
    const ends = traces.filter((trace) => trace.optimizer).flatMap((trace) => trace.y.slice(Math.min(trace.y.length - 1, Math.max(1, Math.floor(trace.y.length / 10))))).filter(Number.isFinite).sort((a, b) => a - b);
    const yaxis = {};
    if (ends.length) {
      const sign = higher ? -1 : 1, costs = ends.map((value) => sign * value).sort((a, b) => a - b);
      const best = costs[0], worst = Math.min(costs.at(-1), best + 8 * (costs[Math.floor(costs.length / 2)] - best) + 1e-12);
      const margin = 0.06 * (worst - best) || 0.05 * Math.abs(best) || 1;
      yaxis.range = [sign * (best - margin), sign * (worst + margin)].sort((a, b) => a - b);
    }
    return [traces, layout("trials", `best final ${Plots.words(problem.metric)}`, { xaxis: whole(longest(traces.filter((trace) => trace.optimizer))), yaxis, ...legend(traces) })];
  };

  /* Against the one that leads after all trials. */
  const wins = (report, problem, choice) => {
    const higher = Ranking.isAccuracy(problem.metric), there = shownWith(problem, choice, (one) => one.trials);
    if (there.length < 2) return [[], {}, ""];
    const trials = new Map(there.map((each) => [each.optimizer, Trials.of(report, each)]));
    const best = (values) => Math.min(...values.map((value) => (Number.isNaN(value) ? Infinity : higher ? -value : value)));
    const leader = there.reduce((a, b) => (best(trials.get(b.optimizer)) < best(trials.get(a.optimizer)) ? b : a)).optimizer;
    const traces = there.filter((each) => each.optimizer !== leader).map(({ optimizer }) => {
      const found = Trials.wins(trials.get(optimizer), trials.get(leader), higher);
      return {
        x: found.map((_, i) => i + 1), y: found, mode: "lines+markers", marker: { size: 4 }, name: plain(optimizer), optimizer, line: lineOf(report, optimizer),
        hovertemplate: `%{fullData.name}<br>%{x} trials each<br>beats ${plain(leader)} with probability %{y:.3f}<extra></extra>`,
      };
    });
    const shapes = [{ type: "line", xref: "paper", x0: 0, x1: 1, y0: 0.5, y1: 0.5, line: { color: theme()("muted"), width: 1, dash: "dot" } }];
    const made = layout("trials of each", "probability to win", { xaxis: whole(longest(traces)), yaxis: { range: [-0.03, 1.03] }, shapes, showlegend: traces.length < MANY });
    return [traces, made, leader];
  };

  const SIGNED = new Set(["alpha", "early_stopping"]);
  const tracked = (report, problem, choice, quantity) => {
    const traces = [], every = [];
    for (const each of shownWith(problem, choice, (one) => quantity in one.tracked)) {
      const rows = Ranking.rows(report.numbers, each.tracked[quantity]);
      const ends = known(rows.map(([step, mean, sd]) => [step, mean - sd, mean + sd]));
      if (ends.length) traces.push(band(report, each.optimizer, ends));
      every.push(...rows.map((row) => row[1]).filter(Number.isFinite));
      traces.push({
        x: rows.map((row) => row[0]), y: rows.map((row) => (Number.isFinite(row[1]) ? row[1] : null)), mode: "lines", name: plain(each.optimizer),
        optimizer: each.optimizer, line: lineOf(report, each.optimizer),
        hovertemplate: `%{fullData.name}<br>step %{x}<br>mean %{y:.5g}<extra>${each.seeds.length} seeds</extra>`,
      });
    }
    const low = Math.min(...every), high = Math.max(...every);
    const yaxis = !SIGNED.has(quantity) && low > 0 && high / low > 30 ? { type: "log", exponentformat: "power" } : {};
    return [traces, layout("step", quantity, { yaxis, ...legend(traces) })];
  };

  return { profiles, targets, differences, tuning, wins, tracked };
})();
