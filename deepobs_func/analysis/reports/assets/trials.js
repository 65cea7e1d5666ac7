"use strict";
/* What tuning buys, as in analysis/tuning_curves.py. */
const Trials = (() => {
  /* From worst to best, what diverged first; less is better no more. */
  const placed = (values, sign) => values.map((value) => (Number.isNaN(value) ? -Infinity : sign * value)).sort((a, b) => (a === b ? 0 : a - b));
  const quantile = (found, share) => {
    if (share <= 0) return -Infinity;
    if (share > 1) return Infinity;
    return found[Math.max(0, Math.ceil(share * found.length - 1e-9) - 1)];
  };

  /* The median best of k trials, its band, and the expected best. */
  const curve = (values, margin, higher) => {
    const sign = higher ? 1 : -1, found = placed(values, sign), size = found.length;
    return Array.from({ length: size }, (_, i) => {
      const k = i + 1, middle = 0.5 ** (1 / k);
      let expected = 0;
      found.forEach((value, at) => {
        const weight = ((at + 1) / size) ** k - (at / size) ** k;
        if (weight > 0) expected += value * weight;
      });
      const [low, high] = [quantile(found, middle - margin), quantile(found, middle + margin)];
      return { k, median: sign * quantile(found, middle), expected: sign * expected, low: higher ? low : -high, high: higher ? high : -low };
    });
  };

  /* For each budget, the probability that the best of k trials of A beats that of B; ties count half. */
  const wins = (a, b, higher) => {
    const sign = higher ? 1 : -1, mine = placed(a, sign), theirs = placed(b, sign), each = [...new Set(mine)];
    const share = (found, at, upto) => found.filter((value) => value < at || (upto && value === at)).length / found.length;
    return Array.from({ length: Math.min(mine.length, theirs.length) }, (_, i) => {
      const k = i + 1;
      return each.reduce((total, at) => {
        const best = share(mine, at, true) ** k - share(mine, at, false) ** k;
        return total + (best * (share(theirs, at, false) ** k + share(theirs, at, true) ** k)) / 2;
      }, 0);
    });
  };

  const of = (report, each) => Ranking.rows(report.numbers, each.trials).flat();
  return { curve, wins, of };
})();
