"""Per-task gradients of the shared parameters, in a matrix that is reused in every step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial

import torch
from torch import Tensor

from libmtl_recon.gradients import columns
from libmtl_recon.gradients.accumulate import Aside
from libmtl_recon.gradients.sparse import Touched

# Scalars that are differentiated together, and the factor of each (None: 1).
Root = tuple[list[Tensor], list[Tensor] | None]


class TaskRows:
    """Matrices ``[T, d]`` of task gradients, and the assignment of a combination of their rows.

    Attributes:
        reached: For each shared parameter, whether a task's gradient has reached it in this step.
    """

    def __init__(self) -> None:
        self.reached: tuple[bool, ...] = ()
        self._matrices: list[_Matrix] = []
        self._taken = 0
        self._before = Aside()
        self._touched = Touched()

    def begin(self) -> None:
        """Start a step: from now on the matrices of the last step are overwritten."""
        self.reached, self._taken = (), 0
        self._touched.clear()

    def fill(
        self,
        roots: Sequence[Root],
        shared: Sequence[Tensor],
        *,
        accumulate: bool,
        retain_graph: bool = False,
    ) -> Tensor:
        """Compute the gradient of each root with respect to the shared parameters.

        Args:
            roots: T roots. The gradient of an empty root is zero.
            shared: The shared parameters; frozen and unreached ones have columns of zeros. With
                ``accumulate`` their ``.grad`` is None afterwards; :meth:`scatter` adds the earlier
                one.
            accumulate: Add the gradients of all other leaves to their ``.grad``.
            retain_graph: Keep the graph after the last root.

        Returns:
            ``[T, d]`` in the parameters' (widest) real dtype, on their device; the columns are the
            shared parameters flattened in order, complex ones as in :func:`torch.view_as_real`. It
            is overwritten after the next :meth:`begin`.

        Raises:
            UsageError: There is no shared parameter.
        """
        columns.check_shared(shared)
        matrix = self._take(len(roots), shared)
        trainable = [p for p in shared if p.requires_grad]
        write = self._writer(matrix, trainable)
        if not accumulate:
            self._differentiate(
                matrix,
                roots,
                shared,
                trainable,
                lambda _, *one: write(*one),
                retain_graph=retain_graph,
            )
            return matrix.whole
        reached: set[int] = set()
        last = _last(roots)
        # With an earlier ``.grad`` to add to, autograd would not pass its own result on.
        self._before.take(trainable)
        with caught(trainable, write):
            for index, (tensors, factors) in enumerate(roots):
                matrix.begin(index)
                if tensors:
                    keep = retain_graph or index != last
                    torch.autograd.backward(tensors, factors, retain_graph=keep)
                reached |= matrix.end()
        self._note_reached(shared, reached)
        return matrix.whole

    def fill_apart(
        self,
        roots: Sequence[Root],
        shared: Sequence[Tensor],
        others: Sequence[Tensor],
        take: Callable[[int, int, Tensor], None],
        *,
        retain_graph: bool,
    ) -> Tensor:
        """Compute the same gradients without changing any ``.grad``; no accumulation hook runs.

        Args:
            roots: As for :meth:`fill`.
            shared: As for :meth:`fill`.
            others: Leaves whose gradients are computed as well.
            take: Called with the place of a root, the place of one of the others, and its gradient.
            retain_graph: Keep the graph after the last root.

        Returns:
            As for :meth:`fill`.
        """
        matrix = self._take(len(roots), shared)
        trainable = [p for p in shared if p.requires_grad]
        write = self._writer(matrix, trainable)

        def catch(at: int, place: int, gradient: Tensor) -> None:
            if place < len(trainable):
                write(place, gradient)
            else:
                take(at, place - len(trainable), gradient)

        self._differentiate(
            matrix, roots, shared, [*trainable, *others], catch, retain_graph=retain_graph
        )
        return matrix.whole

    def _differentiate(
        self,
        matrix: _Matrix,
        roots: Sequence[Root],
        shared: Sequence[Tensor],
        leaves: Sequence[Tensor],
        catch: Callable[[int, int, Tensor], None],
        *,
        retain_graph: bool,
    ) -> None:
        """Pass each root's gradients to ``catch``, with the places of the root and of the leaf."""
        reached: set[int] = set()
        last = _last(roots)
        for at, (tensors, factors) in enumerate(roots):
            matrix.begin(at)
            if tensors and leaves:
                keep = retain_graph or at != last
                found = torch.autograd.grad(
                    tensors, leaves, factors, retain_graph=keep, allow_unused=True
                )
                for place, gradient in enumerate(found):
                    if gradient is not None:
                        catch(at, place, gradient)
            reached |= matrix.end()
        self._note_reached(shared, reached)

    def _writer(
        self, matrix: _Matrix, trainable: Sequence[Tensor]
    ) -> Callable[[int, Tensor], None]:
        def write(place: int, gradient: Tensor) -> None:
            matrix.write(place, gradient)
            self._touched.note(trainable[place], gradient)

        return write

    def _note_reached(self, shared: Sequence[Tensor], reached: set[int]) -> None:
        places, before = iter(range(len(shared))), self.reached
        if len(before) != len(shared):
            before = (False,) * len(shared)
        self.reached = tuple(
            p.requires_grad and (next(places) in reached or hit)
            for p, hit in zip(shared, before, strict=True)
        )

    def scatter(self, vector: Tensor, shared: Sequence[Tensor], *, overwrite: bool = False) -> None:
        """Add a gradient ``[d]`` to the ``.grad`` of the shared parameters.

        A parameter that is frozen, or that no task reached, gets no gradient, so that weight decay
        does not change it. A new ``.grad`` is a view of ``vector``, or a sparse copy where the
        tasks' gradients were sparse.

        Args:
            vector: The gradient, in the layout of the rows.
            shared: The shared parameters.
            overwrite: Replace their ``.grad``, and the one that :meth:`fill` has set aside; the
                ``.grad`` of those that get no gradient is None.

        Raises:
            UsageError: The vector has another length.
        """
        parts = columns.split(vector, shared)
        reached = self.reached or tuple(p.requires_grad for p in shared)
        if overwrite:
            self._before.drop()
        else:
            self._before.take(p for p in shared if p.requires_grad)
        for parameter, part, hit in zip(shared, parts, reached, strict=True):
            if hit:
                parameter.grad = self._touched.gradient_of(part, parameter)
            elif overwrite:
                parameter.grad = None
        self._before.add_up()

    def gradients(
        self, vector: Tensor, shared: Sequence[Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Return the parameters that a task reached, and their gradients in a vector ``[d]``.

        Args:
            vector: As for :meth:`scatter`.
            shared: The shared parameters.
        """
        parts = zip(shared, columns.split(vector, shared), self.reached, strict=True)
        reached = [(parameter, part) for parameter, part, hit in parts if hit]
        return (
            [parameter for parameter, _ in reached],
            [self._touched.gradient_of(part, parameter) for parameter, part in reached],
        )

    def forget(self) -> None:
        """Drop the gradients that :meth:`fill` has set aside."""
        self._before.drop()

    def holds(self, tensor: Tensor) -> bool:
        """Return whether a tensor shares memory with a matrix, which will be overwritten."""
        storage = tensor.untyped_storage().data_ptr()
        return any(m.whole.untyped_storage().data_ptr() == storage for m in self._matrices)

    def _take(self, tasks: int, shared: Sequence[Tensor]) -> _Matrix:
        # A weighting may use several at once (MoDo and SDMGrad compare three batches).
        at, self._taken = self._taken, self._taken + 1
        if at == len(self._matrices):
            self._matrices.append(_Matrix(tasks, shared))
        elif not self._matrices[at].fits(tasks, shared):
            self._matrices[at] = _Matrix(tasks, shared)
        return self._matrices[at]


class _Matrix:
    """One matrix, and the places of the trainable parameters in its rows."""

    def __init__(self, tasks: int, shared: Sequence[Tensor]) -> None:
        self._layout = _layout(shared)
        # Zeros, because the columns of frozen parameters are never written.
        self._memory = torch.zeros(
            tasks,
            sum(columns.widths(shared)),
            dtype=columns.row_dtype(shared),
            device=shared[0].device,
        )
        self.whole = self._memory
        self._written: set[int] = set()
        self._row: list[Tensor] = []
        self._places = [
            [
                part
                for p, part in zip(shared, columns.parts_of(row, shared), strict=True)
                if p.requires_grad
            ]
            for row in self._memory
        ]

    def fits(self, tasks: int, shared: Sequence[Tensor]) -> bool:
        """Return whether the matrix fits; if it does, use its first T rows from now on."""
        if len(self._memory) < tasks or self._layout != _layout(shared):
            return False
        self.whole = self._memory[:tasks]
        return True

    def begin(self, row: int) -> None:
        """Begin to write a row."""
        self._row, self._written = self._places[row], set()

    def write(self, place: int, gradient: Tensor) -> None:
        """Write the gradient of one trainable parameter into the row."""
        columns.write(self._row[place], gradient)
        self._written.add(place)

    def end(self) -> set[int]:
        """Zero what was not written in the row, and return the places of what was."""
        for place, part in enumerate(self._row):
            if place not in self._written:
                part.zero_()
        return self._written


@contextmanager
def caught(leaves: Sequence[Tensor], write: Callable[[int, Tensor], None]) -> Iterator[None]:
    """Write leaves' gradients as soon as backward passes compute them.

    They are then still in the cache, and their memory is free for the next parameter.
    """

    def catch(place: int, parameter: Tensor) -> None:
        if parameter.grad is not None:
            write(place, parameter.grad)
            parameter.grad = None

    with ExitStack() as hooks:
        for place, parameter in enumerate(leaves):
            hook = parameter.register_post_accumulate_grad_hook(partial(catch, place))
            hooks.callback(hook.remove)
        yield


def _last(roots: Sequence[Root]) -> int:
    """Return the place of the last root that is not empty; -1 if all are."""
    return max((place for place, (tensors, _) in enumerate(roots) if tensors), default=-1)


def _layout(shared: Sequence[Tensor]) -> list[tuple[torch.Size, torch.dtype, torch.device, bool]]:
    return [(p.shape, p.dtype, p.device, p.requires_grad) for p in shared]
