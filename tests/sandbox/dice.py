"""Chance that depends on the thing alone, so that the same row meets the same fate in every request."""

from __future__ import annotations

import zlib

_WHOLE = 1 << 32


def dice_of(*parts: object) -> int:
    """Return 32 bits for the combination of the parts."""
    return zlib.crc32(" ".join(map(str, parts)).encode())


def strikes(dice: int, share: float, salt: int = 0) -> bool:
    """Return whether a thing belongs to a share of all things. Another salt makes another share."""
    return again(dice, salt) < share * _WHOLE if salt else dice < share * _WHOLE


def again(dice: int, salt: int) -> int:
    """Return further 32 bits from the same dice."""
    dice = (dice ^ salt * 0x9E3779B1) & 0xFFFFFFFF
    dice = (dice ^ dice >> 16) * 0x85EBCA6B & 0xFFFFFFFF
    dice = (dice ^ dice >> 13) * 0xC2B2AE35 & 0xFFFFFFFF
    return dice ^ dice >> 16


def amount(dice: int, most: int) -> int:
    """Return a number between 1 and `most`, with either sign."""
    dice = again(dice, 1)
    return (1 if dice & 1 else -1) * (1 + (dice >> 1) % most)


def upto(dice: int, most: int) -> int:
    """Return a number between 0 and `most`, both inclusive."""
    return again(dice, 2) % (most + 1)
