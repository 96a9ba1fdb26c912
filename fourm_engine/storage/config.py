"""The `data.remote` section of a config: how remote data is read and kept."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from fourm_engine.storage.url import LocalFolder


def user_cache() -> Path:
    """The folder of this user's caches."""
    if sys.platform == "darwin":
        return Path("~/Library/Caches/fourm").expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "fourm"


class RemoteConfig(BaseModel):
    """Shards of a remote store are read from copies in `cache`, which all processes of a machine share. A store that
    does not answer, or not with all bytes, is asked again after 0.5, 1, 2, … 30 s, each randomly shortened."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    #: Folder of the copies, on a fast disk of this machine.
    cache: LocalFolder = Field(default_factory=user_cache)
    #: GiB of all copies together; the least recently used are evicted. 0: keep none, and read from the store each time.
    cache_gb: float = Field(default=50, ge=0)
    #: Shards that each process may queue for download before they are needed.
    ahead: int = Field(default=16, ge=0, le=128)
    #: Seconds to wait for one response of the store.
    timeout_s: float = Field(default=60, gt=0)
    #: Seconds for which the store may be unavailable before the run gives up.
    give_up_s: float = Field(default=300, ge=0)
