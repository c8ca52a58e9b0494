"""Several U-Nets of one recipe and different seeds, whose mean answer is steadier than each one's."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from busutils.errors import BusutilsError
from busutils.models.segmenter import Segmenter, WeightsError
from busutils.models.training import UNetSegmenter

__all__ = ["EnsembleSegmenter"]

_SHARED = ("size", "filters", "encoder", "dropout", "tta", "min_area", "precision")  # what members must agree in


class EnsembleSegmenter(Segmenter):
    """Mean probability of U-Nets: trained here with different seeds, or joined by :meth:`of`.

    Fitted here, every member sets aside validation groups of its own, chooses its epoch there, and sees what the others set aside:
    no image of the outer test fold is involved. Threshold and minimum confidence are the means of the members'.

    Parameters
    ----------
    preset : str, default "light"
        Recipe of the members, see :meth:`UNetSegmenter.preset`.
    changes : mapping of str to Any, optional
        Settings of the members that differ from the preset's.
    members : int, default 3
        How many.
    seed : int, default 0
        Of the first member; the others count upwards.

    Attributes
    ----------
    members_ : list of UNetSegmenter
        The trained members.

    References
    ----------
    Lakshminarayanan, Pritzel, Blundell 2017, Simple and scalable predictive uncertainty estimation using deep ensembles,
    NeurIPS, arXiv:1612.01474.
    """

    supervised: ClassVar[bool] = True
    runtime = "keras"

    def __init__(
        self,
        preset: str = "light",
        *,
        changes: Mapping[str, Any] | None = None,
        members: int = 3,
        seed: int = 0,
    ) -> None:
        self.preset = preset
        self.changes = changes
        self.members = members
        self.seed = seed

    @classmethod
    def of(cls, members: Sequence[UNetSegmenter]) -> EnsembleSegmenter:
        """Join U-Nets that were trained already, such as shipped weights and your own.

        Parameters
        ----------
        members : sequence of UNetSegmenter
            Fitted ones that build the same network. They may have been trained differently; the settings that are saved with
            the ensemble are those of the first.

        Returns
        -------
        EnsembleSegmenter
            Ready to predict.

        Raises
        ------
        ValueError
            If there is none, or they differ in what shapes their answers.
        """
        if not members:
            raise BusutilsError("an ensemble needs at least one member: give fitted U-Nets")
        params = [{**member.get_params(deep=False), "filters": tuple(member.filters)} for member in members]
        differing = [name for name in _SHARED if any(own[name] != params[0][name] for own in params)]
        if differing:
            raise BusutilsError(f"the members differ in {', '.join(differing)}: an ensemble takes U-Nets of one kind")
        changes = {name: value for name, value in params[0].items() if name != "seed"}
        ensemble = cls(changes=changes, members=len(members), seed=params[0]["seed"])
        ensemble.members_ = list(members)
        ensemble._combine_thresholds()
        ensemble.fitted_ = True
        return ensemble

    def _member(self, index: int) -> UNetSegmenter:
        return UNetSegmenter.preset(self.preset, **{**(self.changes or {}), "seed": self.seed + index})

    @property
    def size(self) -> int:  # type: ignore[override]
        """Side of the members' square, in pixels."""
        return self._member(0).size

    @property
    def history_(self) -> pd.DataFrame:
        """One row an epoch of every member: ``member`` and the columns of :attr:`UNetSegmenter.history_`."""
        parts = [member.history_.assign(member=index) for index, member in enumerate(self.members_)]
        return pd.concat(parts, ignore_index=True)[["member", *parts[0].columns.drop("member")]]

    @property
    def init_file(self) -> Path | None:
        """File of the weights that every member's training begins with, if any."""
        return self._member(0).init_file

    def check_settings(self) -> None:
        """Refuse settings that a training could only fail with; see :meth:`UNetSegmenter.check_settings`."""
        if self.members < 1:
            raise BusutilsError(f"an ensemble needs at least one member, got {self.members}")
        self._member(0).check_settings()

    def _fit(
        self,
        images: list[np.ndarray],
        masks: list[np.ndarray] | None,
        *,
        checkpoint: str | os.PathLike[str] | None = None,
        **options: Any,
    ) -> None:
        """Train all members. A finished one is kept beside the checkpoint."""
        self.check_settings()
        self.members_ = []
        finished = []
        for index in range(self.members):
            member = self._member(index)
            if checkpoint is None:
                self.members_.append(member.fit(images, masks, **options))
                continue
            own = Path(checkpoint).with_suffix(f".{index}.npz")
            # A checkpoint after its last epoch trains nothing more: it is the finished member.
            self.members_.append(member.fit(images, masks, checkpoint=own, **options))
            finished.append(own)
        self._combine_thresholds()
        for own in finished:
            own.unlink(missing_ok=True)

    def _combine_thresholds(self) -> None:
        self.threshold_ = float(np.mean([member.threshold_ for member in self.members_]))
        self.min_confidence_ = float(np.mean([member.min_confidence_ for member in self.members_]))
        self.min_area = self.members_[0].min_area

    def member_proba(self, squares: np.ndarray) -> np.ndarray:
        """Probability maps of every member.

        Parameters
        ----------
        squares : (N, S, S) uint8 ndarray
            Images at the members' size.

        Returns
        -------
        (members, N, S, S) float32 ndarray
            Their spread tells where the members disagree.
        """
        return np.stack([member._square_proba(squares) for member in self.members_])

    def _square_proba(self, squares: np.ndarray) -> np.ndarray:
        return self.member_proba(squares).mean(axis=0)

    def _arrays(self) -> dict[str, np.ndarray]:
        return {
            f"m{index:02d}{name}": value
            for index, member in enumerate(self.members_)
            for name, value in member._arrays().items()
        }

    def _set_arrays(self, arrays: dict[str, np.ndarray]) -> None:
        self.members_ = []
        for index in range(self.members):
            own = {name[3:]: value for name, value in arrays.items() if name.startswith(f"m{index:02d}")}
            if not own:
                raise WeightsError(f"member {index + 1} of {self.members} is missing: the file is damaged")
            member = self._member(index)
            member._set_arrays(own)
            self.members_.append(member)

    def _state(self) -> dict[str, Any]:
        return {**super()._state(), "members": [member._state() for member in self.members_]}

    def _set_state(self, state: dict[str, Any]) -> None:
        for member, own in zip(self.members_, state["members"], strict=True):
            member._set_state(own)
            member.fitted_ = True
        self._combine_thresholds()
        self.provenance = state.get("provenance", {})
