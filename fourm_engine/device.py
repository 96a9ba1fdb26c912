"""Which device a model runs on, from what a user says."""

from __future__ import annotations

import torch


def choose_device(device: torch.device | str | None) -> torch.device:
    """`device`; for None a GPU if there is one, and the CPU otherwise. Raises ValueError, one line, for one that is not
    there."""
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not isinstance(device, (str, torch.device)):
        raise ValueError(f"device is a torch.device or its name, such as 'cpu' or 'cuda'; given: {device!r:.80}")
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # backends raise different errors
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"device {str(device)!r} cannot be used here: {reason:.200}") from None
    if found.type == "meta":
        raise ValueError("device 'meta' holds no numbers; choose 'cpu' or 'cuda'")
    return found
