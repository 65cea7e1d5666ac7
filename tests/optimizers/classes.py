"""Optimizer classes as users write them: with closures, random numbers, `.data`, and constructors that raise."""

import torch


class _Plain(torch.optim.Optimizer):
    def __init__(self, params, lr=0.1, **hyper):
        super().__init__(params, {"lr": lr, **hyper})

    def leaves(self):
        return [(leaf, group["lr"]) for group in self.param_groups for leaf in group["params"]]


class Noisy(_Plain):
    """Draws from torch's global generator, in the constructor and in every step; takes no closure at all."""

    def __init__(self, params, lr=0.1, noise=0.1):
        super().__init__(params, lr, noise=noise)
        self.offset = torch.rand(()).item()

    @torch.no_grad()
    def step(self):
        for leaf, lr in self.leaves():
            leaf.sub_(lr * (leaf.grad + 0.1 * self.offset + 0.1 * torch.randn_like(leaf)))


class IgnoresClosure(_Plain):
    """Takes a closure, as torch's interface wants it, and never calls it."""

    @torch.no_grad()
    def step(self, closure=None):
        for leaf, lr in self.leaves():
            leaf.sub_(lr * leaf.grad)


class Extragradient(_Plain):
    """Goes to a look-ahead point, evaluates there, and steps from where it was."""

    def move(self, leaf, value):
        leaf.copy_(value)

    def step(self, closure):
        closure()
        with torch.no_grad():
            origins = [leaf.clone() for leaf, _ in self.leaves()]
            for leaf, lr in self.leaves():
                self.move(leaf, leaf - lr * leaf.grad)
        loss = closure()
        with torch.no_grad():
            for (leaf, lr), origin in zip(self.leaves(), origins, strict=True):
                self.move(leaf, origin - lr * leaf.grad)
        return loss


class ExtragradientThroughData(Extragradient):
    """The same in the older way, which torch's version counter does not see."""

    def move(self, leaf, value):
        leaf.data.copy_(value.data)


class ExtragradientRebound(Extragradient):
    """The same with new storage, as the widespread code of SAM has it."""

    def move(self, leaf, value):
        leaf.data = value.data


class Demanding(_Plain):
    """Has a hyperparameter without a default, and refuses values of it."""

    def __init__(self, params, lr, strength, *, mode="fast", **others):
        if strength < 0:
            raise ArithmeticError(f"strength must not be {strength}!")
        super().__init__(params, lr)


def no_class():
    """Something else that a path may lead to."""
