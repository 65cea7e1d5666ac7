"""Optimizer classes as users write them: with closures, random numbers, `.data`, and constructors that raise."""

import collections

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


class Keeping(IgnoresClosure):
    """Keeps what it remembers in attributes of its own, not in `state`; some of it is shared, or known by an id."""

    def __init__(self, params, lr=0.1):
        super().__init__(params, lr)
        self.steps, self.recent, self.names = 0, collections.deque(maxlen=2), {"sgd", "kept"}
        self.mean = {id(leaf): torch.zeros_like(leaf) for leaf, _ in self.leaves()}
        self.same = self.mean

    @torch.no_grad()
    def step(self):
        self.steps += 1
        self.recent.append(torch.tensor(1.0 / self.steps))
        for leaf, _ in self.leaves():
            self.mean[id(leaf)].lerp_(leaf.grad, 0.5)
            leaf.grad.copy_(self.same[id(leaf)] * sum(self.recent))
        super().step()


class Iterating(IgnoresClosure):
    """Remembers where it is by an iterator."""

    def __init__(self, params, lr=0.1):
        super().__init__(params, lr)
        self.factors = (1 / n for n in range(1, 100))


class Reversed(list):
    """A list that is made of its items in reversed order."""

    def __init__(self, items=()):
        super().__init__(reversed(list(items)))


class Unsaved(IgnoresClosure):
    """Makes something in its steps that does not come back as it was, or that nothing can make anew."""

    def __init__(self, params, lr=0.1, what="reversed"):
        super().__init__(params, lr)
        self.what, self.made = what, None

    def step(self, closure=None):
        class Local:
            pass

        flat = torch.zeros(4)
        kinds = {"reversed": Reversed([1, 2]), "local": Local(), "function": lambda: 0, "views": [flat[:3], flat[2:]]}
        leaf = self.param_groups[0]["params"][0]
        self.made = kinds.get(self.what, leaf.data[:1])
        super().step()


class Rounding(IgnoresClosure):
    """Is evaluated at a third of its iterate, from where it does not come back to the last bit."""

    training = False

    def scale(self, factor):
        with torch.no_grad():
            for leaf, _ in self.leaves():
                leaf.mul_(factor)

    def eval(self):
        self.training = False
        self.scale(1 / 3)

    def train(self):
        if not self.training and self.state.get("evaluated"):
            self.scale(3.0)
        self.training = True

    def step(self, closure=None):
        assert self.training
        self.state["evaluated"] = True
        super().step()


class Halving(torch.optim.Optimizer):
    """Wraps another optimizer, whose rates it scales."""

    def __init__(self, optimizer, factor=0.5):
        self.optimizer = optimizer
        super().__init__(optimizer.param_groups, optimizer.defaults)
        for group in optimizer.param_groups:
            group["lr"] *= factor

    def step(self, closure=None):
        return self.optimizer.step(closure)


def _products(leaves):
    grads = [leaf.grad for leaf in leaves]
    return torch.autograd.grad(grads, leaves, [torch.ones_like(grad) for grad in grads], retain_graph=True)


class NewtonDiagonal(_Plain):
    """Divides the gradient by a Hessian product, which a function of its module computes."""

    def step(self, closure=None):
        leaves = [leaf for leaf, _ in self.leaves()]
        products = _products(leaves)
        with torch.no_grad():
            for (leaf, lr), product in zip(self.leaves(), products, strict=True):
                leaf.sub_(lr * leaf.grad.detach_() / (1 + product.abs()))


class Hidden(_Plain):
    """The same by a function that nothing in its code names."""

    def step(self, closure=None):
        globals()["_" + "products"]([leaf for leaf, _ in self.leaves()])


def no_class():
    """Something else that a path may lead to."""


class SharpnessAware(torch.optim.Optimizer):
    """SAM as its widespread code has it: what it does not know goes to the class that it wraps."""

    def __init__(self, params, base_optimizer, rho=0.05, **kwargs):
        super().__init__(params, {"rho": rho, **kwargs})
        self.base_optimizer = base_optimizer(self.param_groups, **kwargs)
        self.param_groups = self.base_optimizer.param_groups

    @torch.no_grad()
    def step(self, closure=None):
        closure = torch.enable_grad()(closure)
        leaves = [leaf for group in self.param_groups for leaf in group["params"]]
        norm = torch.stack([leaf.grad.norm() for leaf in leaves]).norm()
        steps = [self.param_groups[0]["rho"] / norm * leaf.grad for leaf in leaves]
        for leaf, step in zip(leaves, steps, strict=True):
            leaf.add_(step)
        closure()
        for leaf, step in zip(leaves, steps, strict=True):
            leaf.sub_(step)
        self.base_optimizer.step()


class Swallowing(torch.optim.SGD):
    """Takes any keyword, and has a learning rate of its own."""

    def __init__(self, params, **ignored):
        super().__init__(params, lr=0.3)
