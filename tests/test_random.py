"""Keys and draws. Statistical tests use fixed keys, so they are deterministic; `RATE` is the chance that a correct
generator would fail one of them for keys chosen at random.
"""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from deepobs_func import random

RATE = 1e-4
WORD = 2**32
KNOWN = [  # the known-answer file of Random123: key, counter, output
    ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
    ((WORD - 1, WORD - 1), (WORD - 1, WORD - 1), (0x1CB996FC, 0xBB002BE7)),
    ((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3), (0xC4923A9C, 0x483DF7A0)),
]
FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
EXACT = {
    "bits": lambda key: random.bits(key, 7),
    "uniform": lambda key: random.uniform(key, (3, 5), -2.0, 3.0),
    "uniform float64": lambda key: random.uniform(key, (3, 5), dtype=torch.float64),
    "uniform bfloat16": lambda key: random.uniform(key, (3, 5), dtype=torch.bfloat16),
    "bernoulli": lambda key: random.bernoulli(key, 0.3, (3, 5)),
    "rademacher": lambda key: random.rademacher(key, (3, 5)),
    "rademacher float64": lambda key: random.rademacher(key, (3, 25), torch.float64),
    "integers": lambda key: random.integers(key, 10, (3, 5)),
    "permutation": lambda key: random.permutation(key, 33),
    "split": lambda key: random.split(key, 3),
    "fold_in": lambda key: random.fold_in(key, 12),
}
ROUNDED = {  # logarithms, sines and erfinv differ between kernels in the last bits
    "normal": lambda key: random.normal(key, (3, 5)),
    "normal float64": lambda key: random.normal(key, (3, 5), torch.float64),
    "truncated normal": lambda key: random.truncated_normal(key, (3, 5)),
    "truncated normal float64": lambda key: random.truncated_normal(key, (3, 5), torch.float64),
}
DRAWS = EXACT | ROUNDED
VECTORS = {  # draws of any length
    "bits": random.bits,
    "uniform": lambda key, num: random.uniform(key, (num,)),
    "uniform float64": lambda key, num: random.uniform(key, (num,), dtype=torch.float64),
    "normal": lambda key, num: random.normal(key, (num,)),
    "normal float64": lambda key, num: random.normal(key, (num,), torch.float64),
    "truncated normal": lambda key, num: random.truncated_normal(key, (num,)),
    "bernoulli": lambda key, num: random.bernoulli(key, 0.4, (num,)),
    "rademacher": lambda key, num: random.rademacher(key, (num,)),
    "integers": lambda key, num: random.integers(key, 100, (num,)),
    "split": random.split,
}

words = st.integers(0, WORD - 1)
seeds = st.integers(0, 2**64 - 1)


def slow_threefry(key, counter):
    """Threefry-2x32-20 on Python integers, round by round as in the paper."""
    rotations = (13, 15, 26, 6, 17, 29, 16, 24)
    injected = (*key, key[0] ^ key[1] ^ 0x1BD11BDA)
    x, y = (counter[0] + key[0]) % WORD, (counter[1] + key[1]) % WORD
    for number in range(20):
        rotation = rotations[number % 8]
        x = (x + y) % WORD
        y = (y * 2**rotation % WORD + y // 2 ** (32 - rotation)) ^ x
        if number % 4 == 3:
            block = number // 4 + 1
            x, y = (x + injected[block % 3]) % WORD, (y + injected[(block + 1) % 3] + block) % WORD
    return x, y


def fast_threefry(key, counter):
    x, y = random.threefry2x32(torch.tensor(key), torch.tensor(counter[0]), torch.tensor(counter[1]))
    return int(x), int(y)


def assert_same(name, actual, expected):
    tolerance = 0.0 if name in EXACT else 16 * torch.finfo(expected.dtype).eps
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def z_bound(means=1):
    """How many standard errors the worst of so many means may lie off."""
    return stats.norm.isf(RATE / 2 / means)


@pytest.mark.parametrize(("key", "counter", "output"), KNOWN)
def test_threefry_gives_the_known_answers(key, counter, output):
    assert slow_threefry(key, counter) == output
    assert fast_threefry(key, counter) == output


@given(st.tuples(words, words), st.tuples(words, words))
@settings(deadline=None, max_examples=25)
def test_threefry_equals_a_slow_oracle(key, counter):
    assert fast_threefry(key, counter) == slow_threefry(key, counter)


@given(seeds, st.integers(0, 9))
@settings(deadline=None, max_examples=20)
def test_bits_splits_and_folds_encrypt_their_counters(seed, num):
    key = random.key(seed)
    pair = tuple(key.tolist())
    expected = [word for count in range(5) for word in slow_threefry(pair, (count, 0))]
    assert random.bits(key, num).tolist() == expected[:num]
    assert random.split(key, num).tolist() == [list(slow_threefry(pair, (count, 1))) for count in range(num)]
    assert random.fold_in(key, num).tolist() == list(slow_threefry(pair, (num, 2)))


@given(seeds)
@settings(deadline=None, max_examples=20)
def test_uniforms_are_the_leading_bits_of_the_words(seed):
    key = random.key(seed)
    first, second = random.bits(key, 2).tolist()
    for dtype, digits in ((torch.float16, 11), (torch.bfloat16, 8), (torch.float32, 24)):
        assert float(random.uniform(key, (), dtype=dtype)) == (first >> (32 - digits)) / 2**digits
    assert float(random.uniform(key, (), dtype=torch.float64)) == ((first >> 5) * 2**26 + (second >> 6)) / 2**53


@pytest.mark.parametrize("name", DRAWS)
def test_a_vmapped_draw_equals_one_by_one(name):
    keys = random.split(random.key(1), 5)
    together = torch.func.vmap(DRAWS[name])(keys)
    assert_same(name, together, torch.stack([DRAWS[name](key) for key in keys]))


@pytest.mark.parametrize(
    "name",
    [
        name if name in ("bernoulli", "normal", "permutation") else pytest.param(name, marks=pytest.mark.large)
        for name in DRAWS
    ],
)
def test_a_compiled_draw_equals_eager(name):
    key = random.key(2)
    compiled = torch.compile(DRAWS[name], backend="aot_eager", fullgraph=True)
    assert_same(name, compiled(key), DRAWS[name](key))


@pytest.mark.parametrize("number", [-1, 2**32, 2**63])
def test_a_number_to_fold_in_is_a_word(number):
    """Masked, it would be another number, whose draws it would share."""
    with pytest.raises(ValueError, match=f"from 0 to 2\\*\\*32 - 1, not {number}"):
        random.fold_in(random.key(0), number)
    assert random.fold_in(random.key(0), 2**32 - 1).shape == (2,)


def test_a_number_to_fold_in_may_be_a_batched_tensor():
    key = random.key(3)
    folded = torch.func.vmap(random.fold_in, in_dims=(None, 0))(key, torch.arange(4))
    assert folded.tolist() == [random.fold_in(key, number).tolist() for number in range(4)]


@pytest.mark.parametrize("name", VECTORS)
@given(seed=seeds, short=st.integers(0, 20), more=st.integers(0, 20))
@settings(deadline=None, max_examples=20)
def test_a_shorter_draw_is_the_head_of_a_longer_one(name, seed, short, more):
    key, draw = random.key(seed), VECTORS[name]
    assert_same(name, draw(key, short), draw(key, short + more)[:short])


def test_every_bit_is_set_half_of_the_time():
    num = 100_000
    draws = random.bits(random.key(4), num)
    counts = torch.stack([(draws >> place & 1).sum() for place in range(32)]).double()
    worst = stats.norm.isf(RATE / 64)  # of 32 two-sided tests
    assert ((counts - num / 2).abs() < worst * math.sqrt(num) / 2).all()


@pytest.mark.parametrize(
    ("draw", "distribution"),
    [
        (random.uniform, stats.uniform()),
        (lambda key, shape, dtype: random.uniform(key, shape, -3.0, 5.0, dtype), stats.uniform(-3.0, 8.0)),
        (random.normal, stats.norm()),
        (random.truncated_normal, stats.truncnorm(-2.0, 2.0)),
    ],
    ids=["uniform", "range", "normal", "truncated"],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_draws_have_their_distribution(draw, distribution, dtype):
    num = 50_000
    sample = draw(random.key(5), (num,), dtype=dtype).double().numpy()
    mean, variance, kurtosis = (float(moment) for moment in distribution.stats("mvk"))
    assert stats.kstest(sample, distribution.cdf).pvalue > RATE
    assert abs(sample.mean() - mean) < z_bound() * math.sqrt(variance / num)
    assert abs(sample.var() - variance) < z_bound() * variance * math.sqrt((kurtosis + 2) / num)


@pytest.mark.parametrize("draw", [random.uniform, random.normal, random.truncated_normal])
@pytest.mark.parametrize("dtype", FLOATS)
def test_neighbours_and_siblings_are_uncorrelated(draw, dtype):
    num = 20_000
    here, there = (draw(key, (num,), dtype=dtype).double() for key in random.split(random.key(6)))
    for pair in ((here[::2], here[1::2]), (here, there)):  # Box-Muller makes neighbours from one angle
        assert abs(torch.corrcoef(torch.stack(pair))[0, 1]) < z_bound() / math.sqrt(len(pair[0]))


@pytest.mark.parametrize("dtype", FLOATS)
def test_draws_of_every_dtype_stay_in_range(dtype):
    key, shape = random.key(7), (100_000,)
    uniform = random.uniform(key, shape, dtype=dtype)
    normal, truncated = random.normal(key, shape, dtype), random.truncated_normal(key, shape, dtype)
    assert {uniform.dtype, normal.dtype, truncated.dtype} == {dtype}
    assert uniform.min() >= 0
    assert uniform.max() < 1
    assert normal.isfinite().all()
    assert truncated.abs().max() <= 2


@pytest.mark.parametrize("word", [0, WORD - 1])
@pytest.mark.parametrize("dtype", FLOATS)
def test_the_extreme_words_stay_in_range(monkeypatch, dtype, word):
    # in float32 and float64 they are too rare to be met by chance
    monkeypatch.setattr(random, "bits", lambda key, num: torch.full((num,), word))
    key = random.key(0)
    assert 0 <= random.uniform(key, (), dtype=dtype) < 1
    assert random.normal(key, (2,), dtype).isfinite().all()
    assert random.truncated_normal(key, (), dtype).abs() <= 2
    assert 0 <= random.integers(key, 2**31, ()) < 2**31
    assert bool(random.bernoulli(key, 0.5, ())) is (word == 0)


@pytest.mark.parametrize(("low", "high"), [(1.0, 2.0), (0.0, 0.1), (-1.0, 1.0), (-0.3, -0.1)])
@pytest.mark.parametrize("dtype", FLOATS)
def test_the_upper_end_of_a_uniform_range_is_excluded_up_to_rounding(monkeypatch, dtype, low, high):
    monkeypatch.setattr(random, "bits", lambda key, num: torch.full((num,), WORD - 1))
    assert random.uniform(random.key(0), (), low, high, dtype) <= torch.tensor(high, dtype=dtype)
    assert random.uniform(random.key(0), (), dtype=dtype) < 1.0


def test_bernoulli_has_its_probability():
    num, key = 50_000, random.key(8)
    for probability in (0.01, 0.2, 0.5, 0.9):
        share = random.bernoulli(key, probability, (num,)).double().mean()
        assert abs(share - probability) < z_bound() * math.sqrt(probability * (1 - probability) / num)


def test_bernoulli_of_0_and_1_is_certain():
    assert not random.bernoulli(random.key(9), 0.0, (10_000,)).any()
    assert random.bernoulli(random.key(9), 1.0, (10_000,)).all()


@pytest.mark.parametrize("probability", [-0.1, 1.1, math.nan])
def test_bernoulli_refuses_what_is_no_probability(probability):
    with pytest.raises(ValueError, match=f"lies in .* {probability}"):
        random.bernoulli(random.key(0), probability, (2,))


def test_rademacher_spells_out_the_bits_of_its_words():
    key, num = random.key(12), 100
    coins = [int(word) >> place & 1 for word in random.bits(key, 4) for place in range(32)][:num]
    assert random.rademacher(key, (10, 10)).flatten().tolist() == [1 - 2 * coin for coin in coins]


def test_rademacher_draws_are_fair_and_uncorrelated():
    draws = random.rademacher(random.key(13), (2000, 64), torch.float64)
    assert set(draws.unique().tolist()) == {-1.0, 1.0}
    covariance = draws.mT @ draws / len(draws)
    bound = z_bound(64 * 65) / math.sqrt(len(draws))
    assert (covariance - torch.eye(64)).abs().max() < bound
    assert draws.mean(0).abs().max() < bound


@pytest.mark.parametrize("high", [1, 2, 7, 100])
def test_integers_are_uniform_on_their_range(high):
    draws = random.integers(random.key(10), high, (20_000,))
    counts = torch.bincount(draws, minlength=high)
    assert len(counts) == high
    assert stats.chisquare(counts.numpy()).pvalue > RATE if high > 1 else counts[0] == 20_000


@given(seeds, st.integers(0, 50))
@settings(deadline=None, max_examples=30)
def test_a_permutation_is_one(seed, num):
    assert sorted(random.permutation(random.key(seed), num).tolist()) == list(range(num))


def test_permutations_are_uniform():
    orders = torch.func.vmap(lambda key: random.permutation(key, 4))(random.split(random.key(11), 12_000))
    codes = (orders * torch.tensor([64, 16, 4, 1])).sum(-1)
    _, counts = codes.unique(return_counts=True)
    assert len(counts) == 24
    assert stats.chisquare(counts.numpy()).pvalue > RATE


def test_splits_folds_and_draws_never_collide():
    num = 4096
    numbers = torch.arange(num)
    families = []
    for key in (random.key(0), random.key(1), random.key(2**32), random.fold_in(random.key(0), 1)):
        folded = torch.func.vmap(random.fold_in, in_dims=(None, 0))(key, numbers)
        families += [random.split(key, num), folded, random.bits(key, 2 * num).reshape(num, 2)]
    distinct = {tuple(pair) for pair in torch.cat(families).tolist()}
    # 11 * 4096: the children of fold_in(key(0), 1) are new, and 64-bit words meet by chance once in 10**10 runs
    assert len(distinct) == len(families) * num


def test_purposes_have_different_constants():
    purposes = [random.INIT, random.ORDER, random.NOISE, random.EVALUATION, random.OPTIMIZER, random.DATA]
    purposes += [random.AUGMENTATION, random.PROBE]
    assert len({tuple(random.fold_in(random.key(0), purpose).tolist()) for purpose in purposes}) == len(purposes)


@pytest.mark.parametrize("name", DRAWS)
def test_the_global_generator_is_neither_read_nor_moved(name):
    draws = []
    with torch.random.fork_rng(devices=[]):
        for seed in (0, 1):
            torch.manual_seed(seed)
            before = torch.get_rng_state()
            draws.append(DRAWS[name](random.key(12)))
            assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(*draws)


@given(seeds)
@settings(deadline=None, max_examples=30)
def test_a_key_holds_the_whole_seed(seed):
    high, low = random.key(seed).tolist()
    assert high * WORD + low == seed


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_a_seed_out_of_range_is_refused(seed):
    with pytest.raises(ValueError, match=rf"0 to 2\*\*64 - 1, not {seed}"):
        random.key(seed)


@pytest.mark.large  # Inductor takes the hash half a minute
@pytest.mark.parametrize("num", [0, 1, 16_383, 16_384, 70_001])
def test_compiled_draws_have_the_same_bits(num: int) -> None:
    key = random.key(3)
    expected = random.bits(key, num)
    with random.compiled_draws():
        assert torch.equal(random.bits(key, num), expected)
        with random.compiled_draws(False):
            assert torch.equal(random.bits(key, num), expected)
        population = torch.func.vmap(lambda key: random.bits(key, num))(random.split(key, 2))
    alone = torch.stack([random.bits(each, num) for each in random.split(key, 2)])
    assert torch.equal(population, alone)
