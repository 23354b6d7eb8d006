# SPDX-License-Identifier: Apache-2.0
"""Where Hydra finds a user's group files, so that they are read like every file of settings."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from omegaconf import OmegaConf

from megacpt.config.yaml_file import load_texts, nested

SCHEME = "settings"


@cache
def register() -> None:
    """Let Hydra know the source, once a process. Only here is Hydra imported, which takes half
    a second that no rank has to spend."""
    from hydra._internal.core_plugins.file_config_source import FileConfigSource
    from hydra.core.plugins import Plugins
    from hydra.plugins.config_source import ConfigResult

    class GroupSource(FileConfigSource):
        @staticmethod
        def scheme() -> str:
            return SCHEME

        def load_config(self, config_path: str) -> ConfigResult:
            path = Path(self.path) / self._normalize_file_name(config_path)
            texts = load_texts(path)
            # Hydra's own list, which names groups; nothing in it is a setting.
            lists = {"defaults": texts.pop("defaults")} if "defaults" in texts else {}
            return ConfigResult(
                config=OmegaConf.create(lists | nested(texts, path=path)),
                path=f"{SCHEME}://{self.path}",
                provider=self.provider,
                header=self._get_header_dict(path.read_text("utf-8-sig")),
            )

    Plugins.instance().register(GroupSource)
