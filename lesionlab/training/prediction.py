"""Predictions of a trained model for any number of lesions, in batches."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from lesionlab.crops.sampling import Samples
from lesionlab.training._devices import Precision, autocast, resolve
from lesionlab.training.experiments import Experiment


def predict(
    experiment: Experiment,
    weights: Mapping[str, torch.Tensor],
    samples: Samples,
    *,
    batch_size: int = 32,
    device: str = "auto",
    precision: Precision = "32-true",
) -> torch.Tensor:
    """What a model with these weights predicts.

    Args:
        experiment: Makes the model.
        weights: `Fitted.state`, or `checkpoints.load_weights(folder)`.
        samples: Normalised as those of the training were.
        batch_size: Lesions at once.
        device: As in `loop.fit`.
        precision: As in `loop.fit`.

    Returns:
        (lesion, target) float32 on the CPU, in the units of the targets.

    Raises:
        ValueError: No lesions, or the device is not there.
        RuntimeError: The weights are of another model.
    """
    if not samples.lesion_ids:
        raise ValueError("samples: expected at least one lesion, got none")
    place = resolve(device)
    # any seed will do, the weights are replaced; the caller's random state stays as it was
    with torch.random.fork_rng(devices=[]):
        model = experiment.model(0)
    model.load_state_dict(dict(weights))
    model.to(place)
    return in_batches(experiment, model, samples.to(place), batch_size, precision)


def in_batches(
    experiment: Experiment,
    model: nn.Module,
    samples: Samples,
    batch_size: int,
    precision: Precision,
) -> torch.Tensor:
    """As `predict`, by a model that is where the samples are, and is in evaluation mode after."""
    model.eval()
    parts = []
    with torch.no_grad(), autocast(samples.images.device, precision):
        for batch in samples.split(batch_size):
            parts.append(experiment.predict(experiment.forward(model, batch)).float().cpu())
    predictions = torch.cat(parts)
    expected = (len(samples.lesion_ids), len(experiment.tasks))
    if predictions.shape != expected:
        raise ValueError(
            f"predict of {experiment.name} gave shape {tuple(predictions.shape)}, expected "
            f"{expected}: lesions, {', '.join(experiment.tasks)}"
        )
    return predictions
