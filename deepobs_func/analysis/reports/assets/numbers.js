"use strict";
/* Statistics in closed form, as SciPy computes them. */
const Numbers = (() => {
  const logGamma = (x) => {
    // Lanczos, g = 7, n = 9.
    const c = [
      0.99999999999980993, 676.5203681218851, -1259.1392167224028, 771.32342877765313, -176.61502916214059,
      12.507343278686905, -0.13857109526572012, 9.9843695780195716e-6, 1.5056327351493116e-7,
    ];
    if (x < 0.5) return Math.log(Math.PI / Math.sin(Math.PI * x)) - logGamma(1 - x);
    const y = x - 1;
    let sum = c[0];
    for (let i = 1; i < 9; i++) sum += c[i] / (y + i);
    const t = y + 7.5;
    return 0.5 * Math.log(2 * Math.PI) + (y + 0.5) * Math.log(t) - t + Math.log(sum);
  };

  /* The regularized incomplete beta function, by its continued fraction (modified Lentz). */
  const incompleteBeta = (x, a, b) => {
    if (x <= 0) return 0;
    if (x >= 1) return 1;
    if (x > (a + 1) / (a + b + 2)) return 1 - incompleteBeta(1 - x, b, a);
    const front = Math.exp(logGamma(a + b) - logGamma(a) - logGamma(b) + a * Math.log(x) + b * Math.log1p(-x)) / a;
    const tiny = 1e-300;
    let c = 1, d = 1 - ((a + b) * x) / (a + 1);
    d = 1 / (Math.abs(d) < tiny ? tiny : d);
    let f = d;
    for (let m = 1; m < 1000; m++) {
      const even = (m * (b - m) * x) / ((a + 2 * m - 1) * (a + 2 * m));
      d = 1 + even * d;
      d = 1 / (Math.abs(d) < tiny ? tiny : d);
      c = 1 + even / c;
      c = Math.abs(c) < tiny ? tiny : c;
      f *= d * c;
      const odd = (-(a + m) * (a + b + m) * x) / ((a + 2 * m) * (a + 2 * m + 1));
      d = 1 + odd * d;
      d = 1 / (Math.abs(d) < tiny ? tiny : d);
      c = 1 + odd / c;
      c = Math.abs(c) < tiny ? tiny : c;
      f *= d * c;
      if (Math.abs(d * c - 1) < 1e-16) break;
    }
    return front * f;
  };

  /* Both tails of Student's t. */
  const twoSidedT = (t, freedom) => incompleteBeta(freedom / (freedom + t * t), freedom / 2, 0.5);

  /* Both tails of the normal distribution: erfc(|z| / sqrt 2). */
  const twoSidedNormal = (z) => {
    const x = Math.abs(z) / Math.SQRT2;
    if (x < 2.5) {
      let term = x, sum = x;
      for (let n = 1; n < 200 && Math.abs(term) > 1e-18; n++) {
        term *= (-x * x) / n;
        sum += term / (2 * n + 1);
      }
      return 1 - (2 / Math.sqrt(Math.PI)) * sum;
    }
    let f = 0;
    for (let n = 120; n > 0; n--) f = n / 2 / (x + f);
    return Math.exp(-x * x) / Math.sqrt(Math.PI) / (x + f);
  };

  /* The upper tail of chi-squared: the regularized incomplete gamma function, by series or continued fraction. */
  const chiSquaredTail = (value, freedom) => {
    const a = freedom / 2, x = value / 2;
    if (x <= 0) return 1;
    const front = Math.exp(-x + a * Math.log(x) - logGamma(a));
    if (x < a + 1) {
      let term = 1 / a, total = term;
      for (let n = 1; n < 10000 && term > total * 1e-17; n++) {
        term *= x / (a + n);
        total += term;
      }
      return 1 - total * front;
    }
    let b = x + 1 - a, c = 1e300, d = 1 / b, f = d;
    for (let n = 1; n < 10000; n++) {
      b += 2;
      const step = -n * (n - a);
      d = 1 / (step * d + b);
      c = b + step / c;
      f *= c * d;
      if (Math.abs(c * d - 1) < 1e-16) break;
    }
    return front * f;
  };

  /* Friedman's test of ranks[problem][optimizer], with its correction for ties. */
  const friedman = (ranks) => {
    const n = ranks.length, k = n ? ranks[0].length : 0;
    if (k < 3 || n < 2) return NaN;
    let ties = 0;
    for (const row of ranks) for (const value of new Set(row)) {
      const t = row.filter((each) => each === value).length;
      ties += t ** 3 - t;
    }
    const correction = 1 - ties / (n * k * (k * k - 1));
    if (correction === 0) return 1;
    const totals = ranks[0].map((_, j) => sum(ranks.map((row) => row[j])));
    const spread = (12 / (n * k * (k + 1))) * sum(totals.map((total) => total * total)) - 3 * n * (k + 1);
    return chiSquaredTail(Math.max(0, spread / correction), k - 1);
  };

  const sum = (values) => values.reduce((total, value) => total + value, 0);
  /* Corrected by the mean of what is left: equal values have exactly that mean, however many they are (samples.averages). */
  const mean = (values) => {
    const first = sum(values) / values.length;
    return Number.isFinite(first) ? first + sum(values.map((value) => value - first)) / values.length : first;
  };
  const variance = (values) => {
    const middle = mean(values);
    return sum(values.map((value) => (value - middle) ** 2)) / (values.length - 1);
  };

  const welch = (a, b) => {
    if (Math.min(a.length, b.length) < 2 || ![...a, ...b].every(Number.isFinite)) return NaN;
    const parts = [a, b].map((values) => variance(values) / values.length);
    const total = parts[0] + parts[1];
    const apart = Math.abs(mean(a) - mean(b));
    if (total === 0) return apart === 0 ? 1 : 0;
    const freedom = 1 / ((parts[0] / total) ** 2 / (a.length - 1) + (parts[1] / total) ** 2 / (b.length - 1));
    return twoSidedT(apart / Math.sqrt(total), freedom);
  };

  /* Mantel's two-sided log-rank test of times, of which some are censored. */
  const logRank = (a, reachedA, b, reachedB) => {
    if (Math.min(a.length, b.length) < 2) return NaN;
    const all = [...a.map((time, i) => [time, reachedA[i], 0]), ...b.map((time, i) => [time, reachedB[i], 1])];
    if (!all.some((each) => each[1]) || new Set(all.map((each) => each[0])).size === 1) return 1;
    let observed = 0, expected = 0, spread = 0;
    for (const time of new Set(all.filter((each) => each[1]).map((each) => each[0]))) {
      const atRisk = all.filter((each) => each[0] >= time);
      const deaths = atRisk.filter((each) => each[0] === time && each[1]);
      const n = atRisk.length, n0 = atRisk.filter((each) => each[2] === 0).length, d = deaths.length;
      observed += deaths.filter((each) => each[2] === 0).length;
      expected += (n0 * d) / n;
      if (n > 1) spread += (n0 * (n - n0) * d * (n - d)) / (n * n * (n - 1));
    }
    if (spread === 0) return 1;
    return twoSidedNormal((observed - expected) / Math.sqrt(spread));
  };

  /* Holm's adjustment; NaN stays NaN and is not counted. */
  const holm = (values) => {
    const ranked = values.map((p, index) => [p, index]).filter(([p]) => !Number.isNaN(p));
    ranked.sort((x, y) => x[0] - y[0] || x[1] - y[1]);
    const adjusted = values.map(() => NaN);
    let highest = 0;
    ranked.forEach(([p, index], rank) => {
      highest = Math.max(highest, Math.min(1, p * (ranked.length - rank)));
      adjusted[index] = highest;
    });
    return adjusted;
  };

  return { sum, mean, welch, logRank, holm, friedman };
})();
