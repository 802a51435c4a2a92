"""A tiny model and its tokenizer, which the tests of this folder share."""

import pytest

from helpers import model, tokenizer


@pytest.fixture(scope="module")
def words():
    return tokenizer()


@pytest.fixture(scope="module")
def llama(words):
    return model(len(words))
