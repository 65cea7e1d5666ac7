"""Counter-based random keys in the spirit of `jax.random`.

A key is an int64 tensor of two 32-bit words. A draw is a pure function of a key, so the same key gives the same bits,
uniforms and permutations on every device, in eager code, under `vmap` and inside a compiled graph, alone or as a
member of a population; normals agree to rounding. Nothing here reads or moves a global generator.

The generator is Threefry-2x32 with 20 rounds (Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as
1, 2, 3", SC 2011), computed in int64 and masked to 32 bits, since int32 overflow is undefined in the C++ that
`torch.compile` generates. The second counter word tells draws, splits and folds apart, so they never collide.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from functools import cache

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

_MASK = 0xFFFFFFFF
_PARITY = 0x1BD11BDA
_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_CHUNK = 1 << 17  # counters hashed at a time in eager code: the 150 intermediate results stay in the cache
_BLOCK = 1 << 14  # counters in one call of compiled code
_compiled_draws = False
_DRAW, _SPLIT, _FOLD = 0, 1, 2  # the second counter word
_DIGITS = {torch.float16: 11, torch.bfloat16: 8, torch.float32: 24, torch.float64: 53}  # significand bits

Key = Int[Tensor, "2"]

# What a run's key is folded with, so that purposes never share draws.
INIT, ORDER, NOISE, EVALUATION, OPTIMIZER, DATA, AUGMENTATION, PROBE = range(8)


def threefry2x32(key: Key, count0: Tensor | int, count1: Tensor | int) -> tuple[Tensor, Tensor]:
    """Encrypts the counters with the key: 20 rounds of Threefry-2x32.

    Args:
        key: two words in `[0, 2**32)`, int64.
        count0: int64 words in `[0, 2**32)`, any shape; or a number, for a word of each key.
        count1: the second counter word.

    Returns:
        Two int64 tensors of words in `[0, 2**32)`, in the shape of `count0`.
    """
    first, second = key[..., 0], key[..., 1]
    schedule = (first, second, first ^ second ^ _PARITY)
    # x0 is masked once, at the end: its excess bits (20 sums stay far below 2**63) are cut off wherever x1 takes them.
    x0, x1 = count0 + first, (count1 + second) & _MASK
    for block in range(5):
        for rotation in _ROTATIONS[block % 2]:
            x0 = x0 + x1
            x1 = (((x1 << rotation) | (x1 >> (32 - rotation))) ^ x0) & _MASK
        x0 = x0 + schedule[(block + 1) % 3]
        x1 = (x1 + schedule[(block + 2) % 3] + (block + 1)) & _MASK
    return x0 & _MASK, x1


def key(seed: int, device: torch.device | str | None = None) -> Key:
    """The key of a seed.

    Args:
        seed: in `[0, 2**64)`.
        device: where every draw from the key will live.

    Returns:
        `(2,)` int64: the two words of the seed.

    >>> key(42)
    tensor([ 0, 42])

    Raises:
        ValueError: the seed is out of range.
    """
    seed = operator.index(seed)  # NumPy's whole numbers too
    if not 0 <= seed < 2**64:
        raise ValueError(f"A seed is a whole number from 0 to 2**64 - 1, not {seed}.")
    return torch.tensor([seed >> 32, seed & _MASK], dtype=torch.int64, device=device)


def fold_in(key: Key, data: int | Tensor) -> Key:
    """A new key from a key and a number.

    Args:
        key: `(2,)` int64.
        data: a number in `[0, 2**32)`, such as an epoch, a step, a purpose or a layer; or a tensor `(*n,)` of them.

    Returns:
        `(2,)` int64, or `(*n, 2)`.

    Raises:
        ValueError: a number is out of range; the values of a tensor are not looked at.
    """
    if isinstance(data, Tensor):
        count: Tensor | int = data.to(key.device, torch.int64)
    else:  # it stays a number: as a tensor it would be copied to a GPU, which the processor waits for
        count = operator.index(data)
        if not 0 <= count <= _MASK:
            raise ValueError(f"A number that is folded in is from 0 to 2**32 - 1, not {count}.")
    return torch.stack(threefry2x32(key, count, _FOLD), dim=-1)


def split(key: Key, num: int = 2) -> Int[Tensor, "num 2"]:
    """Independent keys from one key.

    Args:
        key: `(2,)` int64.
        num: how many.

    Returns:
        `(num, 2)` int64, a key in each row.
    """
    counts = torch.arange(num, device=key.device)
    return torch.stack(threefry2x32(key, counts, _SPLIT), dim=-1)


def bits(key: Key, num: int) -> Int[Tensor, " num"]:
    """Words of 32 random bits. A shorter draw is the head of a longer one.

    Args:
        key: `(2,)` int64; the same key gives the same result.
        num: how many.

    Returns:
        `(num,)` int64 in `[0, 2**32)`.
    """
    calls = (num + 1) // 2
    if torch.compiler.is_compiling():
        return _words(key, torch.arange(calls, device=key.device))[..., :num]
    plain = not torch._C._functorch.is_functorch_wrapped_tensor(key)
    if _compiled_draws and plain and key.device.type == "cuda":  # one kernel, where eager code launches 200
        return _compiled_words(dynamic=True)(key, torch.arange(calls, device=key.device))[..., :num]
    compiled = _compiled_draws and plain and calls >= _BLOCK // 2
    words, chunk = (_compiled_words(dynamic=False), _BLOCK) if compiled else (_words, _CHUNK)
    if compiled:
        calls = -(-calls // chunk) * chunk  # blocks of one shape: the last is cut off below
    starts = range(0, max(calls, 1), chunk)
    counts = (torch.arange(start, min(start + chunk, calls), device=key.device) for start in starts)
    return torch.cat([words(key, each) for each in counts], dim=-1)[..., :num]


def _words(key: Key, counts: Tensor) -> Tensor:
    return torch.stack(threefry2x32(key, counts, _DRAW), dim=-1).flatten(-2)


@cache
def _compiled_words(*, dynamic: bool) -> Callable[[Key, Tensor], Tensor]:
    """Of one length, or of any: the code for processors is made for one, that for GPUs takes any as fast."""
    return torch.compile(_words, fullgraph=True, dynamic=dynamic)


@contextmanager
def compiled_draws(enabled: bool = True) -> Generator[None]:
    """Within it, long draws in eager code are hashed by compiled code, 2.5 to 4 times as fast; the bits are the same.

    One block of one shape serves every draw of every problem: inside a graph of its own, every single draw would take
    the compiler 13 seconds.

    Args:
        enabled: whether they are.

    Yields:
        Nothing; afterwards all is as before.
    """
    global _compiled_draws
    before, _compiled_draws = _compiled_draws, enabled
    try:
        yield
    finally:
        _compiled_draws = before


def uniform(
    key: Key,
    shape: Sequence[int],
    low: float = 0.0,
    high: float = 1.0,
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, "*shape"]:
    """Uniform draws from `[low, high)`, with as many random bits as the dtype's significand holds.

    Args:
        key: `(2,)` int64; the same key gives the same result.
        shape: of the result.
        low, high: the range. `[0, 1)` is exact; in another range `high` itself can come out by rounding.
        dtype: of the result.

    Returns:
        A tensor of that shape and dtype, on the device of the key.

    >>> uniform(key(0), (2,)).shape
    torch.Size([2])
    """
    num, digits = math.prod(shape), _DIGITS[dtype]
    if digits > 32:
        pairs = bits(key, 2 * num).unflatten(-1, (num, 2))
        words = ((pairs[..., 0] >> 5) << 26) | (pairs[..., 1] >> 6)
    else:
        words = bits(key, num) >> (32 - digits)
    unit = words.to(dtype) * 2.0**-digits
    return (low + (high - low) * unit).reshape(tuple(shape))


def normal(key: Key, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Float[Tensor, "*shape"]:
    """Standard normal draws: both outputs of the Box-Muller transform, `sqrt(-2 ln u) (cos, sin)(2 pi v)`.

    Args:
        key: `(2,)` int64; the same key gives the same result.
        shape: of the result.
        dtype: of the result.

    Returns:
        A tensor of that shape and dtype, on the device of the key.
    """
    num = math.prod(shape)
    half = (num + 1) // 2
    if _DIGITS[dtype] > 32:
        u, v = uniform(key, (half, 2), dtype=dtype).unbind(-1)
        u = 1.0 - u  # in (0, 1], so that the logarithm is finite
    else:
        words = bits(key, 2 * half).unflatten(-1, (half, 2)).to(torch.float32)
        u, v = (words[..., 0] + 0.5) * 2.0**-32, words[..., 1] * 2.0**-32
    radius, angle = torch.sqrt(-2.0 * torch.log(u)), 2.0 * math.pi * v
    pairs = torch.stack((radius * torch.cos(angle), radius * torch.sin(angle)), dim=-1)
    return pairs.flatten(-2)[..., :num].to(dtype).reshape(tuple(shape))


def truncated_normal(key: Key, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Float[Tensor, "*shape"]:
    """Standard normal draws conditioned on `[-2, 2]`, by inversion: `sqrt(2) erfinv(u)`, `|u| <= erf(sqrt(2))`.

    The standard deviation of a draw is 0.8796, as TensorFlow's `truncated_normal` has it.

    Args:
        key: `(2,)` int64; the same key gives the same result.
        shape: of the result.
        dtype: of the result.

    Returns:
        A tensor of that shape and dtype, on the device of the key.
    """
    bound = math.erf(math.sqrt(2.0))
    u = uniform(key, shape, -bound, bound, dtype)
    return (math.sqrt(2.0) * torch.erfinv(u)).clamp(-2.0, 2.0)


def bernoulli(key: Key, probability: float, shape: Sequence[int]) -> Bool[Tensor, "*shape"]:
    """True with a given probability, rounded to a multiple of 1/65536: a word serves two draws.

    Args:
        key: `(2,)` int64; the same key gives the same result.
        probability: of True, in `[0, 1]`.
        shape: of the result.

    Returns:
        A bool tensor of that shape, on the device of the key.

    Raises:
        ValueError: the probability is not in `[0, 1]`.
    """
    if not 0.0 <= probability <= 1.0:
        raise ValueError(f"A probability lies in [0, 1]; this one is {probability}.")
    num, threshold = math.prod(shape), round(probability * 2**16)
    words = bits(key, (num + 1) // 2)
    halves = torch.stack(((words >> 16) < threshold, (words & 0xFFFF) < threshold), dim=-1)
    return halves.flatten(-2)[..., :num].reshape(tuple(shape))


def rademacher(key: Key, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Float[Tensor, "*shape"]:
    """-1 or 1 with equal probability: a word serves 32 draws, which makes it far cheaper than any other draw.

    Args:
        key: `(2,)` int64; the same key gives the same result.
        shape: of the result.
        dtype: of the result.

    Returns:
        A tensor of that shape and dtype, on the device of the key.
    """
    num = math.prod(shape)
    words = bits(key, -(-num // 32))
    parts = torch.stack([(words >> shift) & 0xFF for shift in (0, 8, 16, 24)], dim=-1).to(torch.uint8)
    coins = (parts.unsqueeze(-1) >> torch.arange(8, dtype=torch.uint8, device=key.device)) & 1
    return (1 - 2 * coins.flatten(-3)[..., :num].to(dtype)).reshape(tuple(shape))


def integers(key: Key, high: int, shape: Sequence[int]) -> Int[Tensor, "*shape"]:
    """Whole numbers in `[0, high)`.

    Args:
        key: `(2,)` int64; the same key gives the same result.
        high: at most `2**31`; the bias of a draw is below `high / 2**32`.
        shape: of the result.

    Returns:
        An int64 tensor of that shape, on the device of the key.
    """
    return ((bits(key, math.prod(shape)) * high) >> 32).reshape(tuple(shape))


def permutation(key: Key, num: int) -> Int[Tensor, " num"]:
    """A uniformly random order of `0 .. num - 1`: the order of `num` words of 63 bits.

    Args:
        key: `(2,)` int64; the same key gives the same result.
        num: the length.

    Returns:
        `(num,)` int64.
    """
    pairs = bits(key, 2 * num).unflatten(-1, (num, 2))
    words = (pairs[..., 0] << 31) | (pairs[..., 1] >> 1)
    return torch.sort(words, dim=-1, stable=True).indices
