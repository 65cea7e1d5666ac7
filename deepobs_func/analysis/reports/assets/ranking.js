"use strict";
/* Who is better, as in analysis/reports/ranking.py. A choice is {measure, quantity, clock, targets, hidden}. */
const Ranking = (() => {
  const isAccuracy = (quantity) => quantity.endsWith("accuracy");
  /* By code points, as Python does. */
  const byName = (a, b) => {
    const [left, right] = [a, b].map((text) => Array.from(text, (each) => each.codePointAt(0)));
    const at = left.findIndex((each, i) => each !== right[i]);
    return at >= 0 && at < right.length ? left[at] - right[at] : left.length - right.length;
  };

  /* Kaplan and Meier's median, of equally many the lower one, with the interval of order statistics where all censoring is at the end. */
  const medianTime = (times, reached, ranks) => {
    const size = times.length;
    const ended = times.filter((_, i) => !reached[i]), arrived = times.filter((_, i) => reached[i]);
    if (!ended.length || !arrived.length || Math.min(...ended) >= Math.max(...arrived)) {
      const placed = times.map((time, i) => (reached[i] ? time : Infinity)).sort((a, b) => a - b);
      const rank = ranks[size] || 0;
      let [low, high] = rank ? [placed[rank - 1], placed[size - rank]] : [NaN, NaN];
      if (low === Infinity) low = Math.min(...ended);
      return { value: placed[Math.floor((size - 1) / 2)], low, high };
    }
    let remaining = 1;
    for (const time of [...new Set(arrived)].sort((a, b) => a - b)) {
      const atRisk = times.filter((each) => each >= time).length;
      remaining *= 1 - arrived.filter((each) => each === time).length / atRisk;
      if (remaining <= 0.5 + 1e-12) return { value: time, low: NaN, high: NaN };
    }
    return { value: Infinity, low: NaN, high: NaN };
  };

  const rows = (data, [start, count, columns]) =>
    Array.from({ length: count }, (_, i) => Array.from(data.subarray(start + i * columns, start + (i + 1) * columns)));

  /* What times are taken of: the complete runs and the stopped ones, as far as there are any. */
  const partsOf = (each) => [each, each.stopped].filter((part) => part.seeds.length);

  /* Each run is seen up to its own last evaluation, where its clock ends. */
  const timesOf = (report, problem, each, choice, quantity) => {
    const higher = isAccuracy(quantity), target = targetOf(problem, choice, quantity), seeds = [], reached = [];
    for (const part of partsOf(each)) {
      const curve = rows(report.numbers, part.curves[quantity]), clock = rows(report.numbers, part.clocks[choice.clock]);
      for (let column = 0; column < part.seeds.length; column++) {
        const at = curve.findIndex((row) => (higher ? row[column] >= target : row[column] <= target));
        const end = clock.findLastIndex((row) => !Number.isNaN(row[column]));
        reached.push(at >= 0);
        seeds.push(clock[at >= 0 ? at : end][column]);
      }
    }
    return { seeds, reached, ...medianTime(seeds, reached, report.medianRanks) };
  };

  const sampleOf = (report, problem, each, choice, quantity) => {
    if (choice.measure === "time") return timesOf(report, problem, each, choice, quantity);
    const curve = rows(report.numbers, each.curves[quantity]);
    const sign = isAccuracy(quantity) ? -1 : 1, costs = curve.map((row) => sign * Numbers.mean(row));
    let at = curve.length - 1;
    if (choice.measure === "best" && costs.some(Number.isFinite)) {
      const worth = costs.map((cost) => (Number.isFinite(cost) ? cost : Infinity));
      at = worth.indexOf(Math.min(...worth));
    }
    const [low, high] = each.intervals[quantity][choice.measure].map((end) => (end === null ? NaN : end));
    const seeds = curve[at];
    return { seeds, reached: seeds.map(() => true), value: Numbers.mean(seeds), low, high };
  };

  const targetOf = (problem, choice, quantity) => {
    const own = choice.targets[problem.name];
    if (own !== undefined) return own;
    return quantity === problem.metric && problem.target !== null ? problem.target : NaN;
  };

  const shownOf = (data, choice) => {
    const quantity = choice.quantity || data.metric, timed = choice.measure === "time";
    const isThere = (each) => (timed
      ? partsOf(each).every((part) => quantity in part.curves && choice.clock in part.clocks)
      : quantity in each.curves);
    return data.shown.filter((each) => !choice.hidden.has(each.optimizer) && isThere(each));
  };
  const samplesOf = (report, data, choice, there) => there.map((each) => sampleOf(report, data, each, choice, choice.quantity || data.metric));
  /* The value of each optimizer, without a test. */
  const values = (report, data, choice) => {
    const there = shownOf(data, choice);
    return samplesOf(report, data, choice, there).map((sample, i) => [there[i].optimizer, sample.value]);
  };

  const problem = (report, data, choice) => {
    const quantity = choice.quantity || data.metric, timed = choice.measure === "time";
    const there = shownOf(data, choice), samples = samplesOf(report, data, choice, there);
    const sign = !timed && isAccuracy(quantity) ? -1 : 1;
    const costs = samples.map((sample) => (Number.isFinite(sample.value) ? sign * sample.value : Infinity));
    const pairs = [], p = [];
    for (let i = 0; i < there.length; i++)
      for (let j = i + 1; j < there.length; j++) {
        pairs.push([i, j]);
        const [a, b] = [samples[i], samples[j]];
        p.push(timed ? Numbers.logRank(a.seeds, a.reached, b.seeds, b.reached) : Numbers.welch(a.seeds, b.seeds));
      }
    const adjusted = there.map(() => ({}));
    Numbers.holm(p).forEach((value, index) => {
      const [i, j] = pairs[index];
      adjusted[i][j] = adjusted[j][i] = value;
    });
    const order = there.map((_, i) => i);
    const reached = samples.map((each) => each.reached.filter(Boolean).length);
    order.sort((i, j) => (costs[i] === costs[j] ? reached[j] - reached[i] : costs[i] - costs[j])
      || byName(there[i].optimizer, there[j].optimizer));
    return order.map((i) => {
      const told = order.filter((j) => j !== i && adjusted[i][j] < 1 - report.level && costs[j] !== costs[i]);
      const better = told.filter((j) => costs[j] < costs[i]).length, worse = told.length - better;
      const leads = i === order[0], pLeader = leads ? NaN : adjusted[i][order[0]];
      return {
        optimizer: there[i].optimizer,
        rank: costs.filter((cost) => cost < costs[i]).length + (1 + costs.filter((cost) => cost === costs[i]).length) / 2,
        lowest: 1 + better,
        highest: costs.length - worse,
        value: samples[i].value,
        low: samples[i].low,
        high: samples[i].high,
        seeds: samples[i].seeds.length,
        reached: reached[i],
        pLeader,
        answer: costs.length === 1 ? "only" : leads ? (worse === costs.length - 1 ? "alone" : "leads")
          : Number.isNaN(pLeader) ? "untested" : pLeader < 1 - report.level && costs[i] !== costs[order[0]] ? "worse" : "tied",
        shown: there[i],
      };
    });
  };

  const overall = (report, choice) => {
    const placed = report.problems.map((data) => [data.name, problem(report, data, choice)]).filter(([, found]) => found.length);
    const names = [...new Set(placed.flatMap(([, found]) => found.map((each) => each.optimizer)))].sort(byName);
    const shared = placed.filter(([, found]) => found.length === names.length);
    const table = (shared.length ? names : []).map((name) => {
      const mine = shared.map(([, found]) => found.find((each) => each.optimizer === name));
      const average = (key) => Numbers.sum(mine.map((each) => each[key])) / mine.length; // of halves, exact
      return {
        optimizer: name,
        meanRank: average("rank"),
        lowest: average("lowest"),
        highest: average("highest"),
        first: mine.filter((each) => each.rank === 1).length,
        notWorse: mine.filter((each) => each.lowest === 1).length,
        problems: mine.length,
      };
    });
    table.sort((a, b) => a.meanRank - b.meanRank || byName(a.optimizer, b.optimizer));
    const ranks = shared.map(([, found]) => names.map((name) => found.find((each) => each.optimizer === name).rank));
    return { table, shared: shared.map(([name]) => name), placed, pFriedman: Numbers.friedman(ranks) };
  };

  return { problem, overall, values, rows, partsOf, targetOf, isAccuracy, byName };
})();
