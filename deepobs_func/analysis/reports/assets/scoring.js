"use strict";
/* Over all problems, as in analysis/reports/scoring.py, analysis/profiles.py and analysis/ranks.py. */
const Scoring = (() => {
  const MOST = 4, POINTS = 100; // of AlgoPerf
  const taus = Array.from({ length: POINTS }, (_, i) => (i === POINTS - 1 ? MOST : 1 + i * ((MOST - 1) / (POINTS - 1))));

  const first = (report, array) => Array.from(report.numbers.subarray(array[0], array[0] + array[2]));
  const last = (report, array) => Ranking.rows(report.numbers, array).at(-1);
  const finiteMean = (values) => {
    const finite = values.filter(Number.isFinite);
    return finite.length ? Numbers.mean(finite) : NaN;
  };
  const startOf = (report, problem, quantity) =>
    finiteMean(problem.shown.filter((each) => quantity in each.curves).map((each) => Numbers.mean(first(report, each.curves[quantity]))));
  const tightened = (report, problem, choice, tight) => {
    const quantity = choice.quantity || problem.metric, start = startOf(report, problem, quantity);
    return start + tight * (Ranking.targetOf(problem, choice, quantity) - start);
  };

  /* times[optimizer][problem]; a problem without a target is left out. */
  const times = (report, choice, tight = 1) => {
    const found = new Map();
    for (const problem of report.problems) {
      const quantity = choice.quantity || problem.metric;
      const target = tight === 1 ? Ranking.targetOf(problem, choice, quantity) : tightened(report, problem, choice, tight);
      if (Number.isNaN(target)) continue;
      const timed = { ...choice, measure: "time", targets: { ...choice.targets, [problem.name]: target } };
      for (const [name, value] of Ranking.values(report, problem, timed)) {
        if (!found.has(name)) found.set(name, new Map());
        found.get(name).set(problem.name, value);
      }
    }
    return new Map([...found].sort((a, b) => Ranking.byName(a[0], b[0])));
  };

  /* By optimizer, the ratio to the fastest on each problem; beyond 4 it did not arrive. */
  const ratios = (found) => {
    const problems = [...new Set([...found.values()].flatMap((row) => [...row.keys()]))];
    const at = (row, name) => row.get(name) ?? Infinity;
    const fastest = problems.map((name) => Math.min(...[...found.values()].map((row) => at(row, name))));
    const one = (row) => problems.map((name, i) => {
      const time = at(row, name);
      if (!Number.isFinite(time) || time > MOST * fastest[i]) return Infinity;
      return time === 0 && fastest[i] === 0 ? 1 : time / fastest[i];
    });
    return new Map([...found].map(([name, row]) => [name, one(row)]));
  };
  const profile = (row) => taus.map((tau) => row.filter((ratio) => ratio <= tau).length / row.length);
  const area = (shares) => {
    let total = 0;
    for (let i = 1; i < POINTS; i++) total += ((shares[i] + shares[i - 1]) / 2) * (taus[i] - taus[i - 1]);
    return total / (MOST - 1);
  };
  const profiles = (report, choice) => {
    const found = times(report, choice), problems = new Set([...found.values()].flatMap((row) => [...row.keys()])).size;
    const rows = [...ratios(found)].map(([optimizer, row]) => {
      const shares = profile(row);
      return { optimizer, shares, score: Number(area(shares).toFixed(12)), arrived: row.filter(Number.isFinite).length, fastest: row.filter((ratio) => ratio === 1).length };
    });
    return { taus, problems, rows: rows.sort((a, b) => b.score - a.score || Ranking.byName(a.optimizer, b.optimizer)) };
  };
  const byTightness = (report, choice) => {
    const found = new Map();
    for (const tight of report.tightness)
      for (const [name, row] of ratios(times(report, choice, tight))) {
        if (!found.has(name)) found.set(name, []);
        found.get(name).push(area(profile(row)));
      }
    return found;
  };

  /* Costs on one scale for all problems. */
  const unit = (report, problem, choice) => {
    const quantity = choice.quantity || problem.metric;
    if (choice.measure === "time") {
      const parts = problem.shown.flatMap(Ranking.partsOf).filter((part) => choice.clock in part.clocks);
      const ends = parts.flatMap((part) => Ranking.rows(report.numbers, part.clocks[choice.clock]).flat()).filter(Number.isFinite);
      return ends.reduce((longest, end) => Math.max(longest, end), 0) || 1;
    }
    let target = Ranking.targetOf(problem, choice, quantity);
    if (Number.isNaN(target)) {
      const ends = problem.shown.filter((each) => quantity in each.curves).map((each) => Numbers.mean(last(report, each.curves[quantity]))).filter(Number.isFinite);
      target = ends.length ? (Ranking.isAccuracy(quantity) ? Math.max(...ends) : Math.min(...ends)) : NaN;
    }
    const way = Math.abs(startOf(report, problem, quantity) - target);
    return Number.isFinite(way) && way > 0 ? way : 1;
  };
  const costs = (report, choice) => {
    const found = new Map();
    for (const problem of report.problems) {
      const sign = choice.measure !== "time" && Ranking.isAccuracy(choice.quantity || problem.metric) ? -1 : 1;
      const by = unit(report, problem, choice);
      for (const [name, value] of Ranking.values(report, problem, choice)) {
        if (!found.has(name)) found.set(name, new Map());
        found.get(name).set(problem.name, Number.isFinite(value) ? (sign * value) / by : Infinity);
      }
    }
    return new Map([...found].sort((a, b) => Ranking.byName(a[0], b[0])));
  };

  /* Wilcoxon's signed-rank test, exact, as analysis/signed_ranks.py counts it. */
  const meanRanks = (values) => values.map((value) => {
    const below = values.filter((each) => each < value).length, equal = values.filter((each) => each === value).length;
    return below + (1 + equal) / 2;
  });
  const signedRanks = (differences) => {
    const found = differences.filter((each) => each !== 0);
    if (!found.length) return 1;
    const doubled = meanRanks(found.map(Math.abs)).map((rank) => Math.round(2 * rank));
    let counts = new Float64Array(doubled.reduce((sum, each) => sum + each, 0) + 1);
    counts[0] = 1;
    for (const each of doubled) counts = counts.map((count, i) => (count + (i >= each ? counts[i - each] : 0)) / 2);
    const positive = doubled.reduce((sum, each, i) => sum + (found[i] > 0 ? each : 0), 0);
    const sum = (from, to) => counts.slice(from, to).reduce((total, each) => total + each, 0);
    return Math.min(1, 2 * Math.min(sum(0, positive + 1), sum(positive, counts.length)));
  };

  /* The largest runs of neighbours in which every pair is alike. */
  const groupsOf = (names, alike) => {
    const found = [];
    for (let start = 0; start < names.length; start++) {
      let end = start + 1;
      const fits = () => end < names.length && names.slice(start, end).every((name) => alike(name, names[end]));
      while (fits()) end++;
      const run = names.slice(start, end);
      if (run.length > 1 && !found.some((other) => run.every((name) => other.includes(name)))) found.push(run);
    }
    return found;
  };
  const MANY = 100; // optimizers, beyond which pairs are neither tested nor drawn here
  const differences = (report, choice) => {
    const scores = costs(report, choice), names = [...scores.keys()];
    const every = new Set([...scores.values()].flatMap((row) => [...row.keys()]));
    const shared = [...every].filter((problem) => names.every((name) => scores.get(name).has(problem)));
    if (names.length < 2 || !shared.length || names.length > MANY) return null;
    const table = names.map((name) => shared.map((problem) => scores.get(name).get(problem)));
    const ranks = shared.map((_, j) => meanRanks(table.map((row) => row[j])));
    const means = names.map((_, i) => Numbers.sum(ranks.map((row) => row[i])) / ranks.length); // of halves, exact
    const pairs = [], p = [];
    for (let i = 0; i < names.length; i++)
      for (let j = i + 1; j < names.length; j++) {
        pairs.push([i, j]);
        p.push(signedRanks(table[i].map((cost, k) => (cost === table[j][k] ? 0 : cost - table[j][k]))));
      }
    const adjusted = Numbers.holm(p), pFriedman = Numbers.friedman(ranks), alpha = 1 - report.level;
    const told = new Set();
    if (!(pFriedman > alpha)) pairs.forEach(([i, j], k) => { if (adjusted[k] <= alpha) told.add(`${i},${j}`).add(`${j},${i}`); });
    const order = names.map((_, i) => i).sort((i, j) => means[i] - means[j] || Ranking.byName(names[i], names[j]));
    const groups = groupsOf(order, (i, j) => !told.has(`${i},${j}`));
    return {
      names: order.map((i) => names[i]), meanRanks: order.map((i) => means[i]), pFriedman, problems: shared,
      groups: groups.map((group) => group.map((i) => names[i])),
      pairs: pairs.map(([i, j], k) => [names[i], names[j], adjusted[k]]),
    };
  };

  return { times, ratios, profiles, byTightness, costs, differences, signedRanks, tightened, MANY };
})();
