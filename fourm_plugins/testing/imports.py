"""Import hygiene: the effects of activating the plugin on a fresh process."""

from __future__ import annotations

from fourm_plugins.testing.check import Check, require
from fourm_plugins.testing.subject import Subject

#: Packages that take seconds to import, and that a spec must not need.
HEAVY = frozenset({"torch", "tensorflow", "jax", "transformers", "diffusers", "timm", "fourm_engine"})


def is_activated(subject: Subject) -> None:
    """The plugin is found by its entry point, imported, and makes an instance, here and in a fresh process."""
    assert subject.modality is not None
    subject.probed()


def spec_needs_no_torch(subject: Subject) -> None:
    """The spec is made without torch, another heavy library, or the engine."""
    heavy = sorted(HEAVY & set(subject.probed().facts["imported"]))
    require(not heavy, f"making the spec imports {', '.join(heavy)}; import it inside the method that needs it")


def import_prints_nothing(subject: Subject) -> None:
    """Activating the plugin prints nothing, to stdout or stderr, not even warnings."""
    output = subject.probed(2).output.strip()
    require(not output, f"activating the plugin prints: {output.splitlines()[0] if output else ''}")


def import_needs_no_network(subject: Subject) -> None:
    """Activating the plugin opens no connection and looks up no host."""
    reached = subject.probed().facts["network"]
    require(not reached, f"activating the plugin goes to the network: {reached[0] if reached else ''}")


def import_leaves_random_state(subject: Subject) -> None:
    """Activating the plugin neither seeds nor draws from Python's, NumPy's or PyTorch's global generator."""
    seeds = [what for what in subject.probed().facts["changed"] if "random state" in what]
    require(not seeds, f"activating the plugin changes {', '.join(seeds)}; use np.random.default_rng(seed) of your own")


def import_leaves_the_process(subject: Subject) -> None:
    """Activating the plugin changes nothing else in the process: its path, variables, default dtype, warnings."""
    other = [what for what in subject.probed().facts["changed"] if "random state" not in what]
    require(not other, f"activating the plugin changes {', '.join(other)}, which is the user's")


def activating_twice_changes_nothing(subject: Subject) -> None:
    """A second activation gives the same class and the same spec, and imports nothing new."""
    twice = subject.probed().facts["twice"]
    require(twice["class"], "a second activation gives another class")
    require(twice["spec"], "a second instance with the same settings has another spec")
    require(not twice["modules"], f"a second activation imports {', '.join(twice['modules'])}")


def spawned_workers_agree(subject: Subject) -> None:
    """An instance can be sent to a spawned process, such as a data loader's worker, and reads the same array there."""
    wrong = subject.probed().facts["spawn"]
    require(not wrong, wrong)


CHECKS = (
    Check(is_activated),
    Check(spec_needs_no_torch),
    Check(import_prints_nothing),
    Check(import_needs_no_network),
    Check(import_leaves_random_state),
    Check(import_leaves_the_process),
    Check(activating_twice_changes_nothing),
    Check(spawned_workers_agree),
)
