"""In a second: coefficients of real images let a linear classifier tell digits apart."""

import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import RidgeClassifier
from sklearn.model_selection import StratifiedKFold, cross_val_score

from scatflow import Scattering2D


def accuracy(features, classes):
    folds = StratifiedKFold(3, shuffle=True, random_state=0)
    return cross_val_score(RidgeClassifier(alpha=0.1), features, classes, cv=folds).mean()


def test_digits_are_told_apart_by_their_coefficients():
    digits = load_digits()
    images = (digits.images / 16).astype(np.float32)
    coefficients = Scattering2D(J=1, L=8)(images).reshape(len(images), -1)
    found, of_pixels = (
        accuracy(x, digits.target) for x in (coefficients, images.reshape(len(images), -1))
    )
    print(f"{found:.4f} of coefficients, {of_pixels:.4f} of pixels")
    assert found > 0.98
    assert found > of_pixels + 0.03
