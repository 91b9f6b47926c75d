"""Chance that depends on the thing alone: the same row meets the same fate whoever asks, and how often."""

from __future__ import annotations

import zlib

_WHOLE = 1 << 32


def dice_of(*parts: object) -> int:
    """32 bits for whatever the parts name together."""
    return zlib.crc32(" ".join(map(str, parts)).encode())


def strikes(dice: int, share: float, salt: int = 0) -> bool:
    """Whether a thing belongs to a share of all things; with another salt, to another one."""
    return again(dice, salt) < share * _WHOLE if salt else dice < share * _WHOLE


def again(dice: int, salt: int) -> int:
    """Further 32 bits from the same dice."""
    dice = (dice ^ salt * 0x9E3779B1) & 0xFFFFFFFF
    dice = (dice ^ dice >> 16) * 0x85EBCA6B & 0xFFFFFFFF
    dice = (dice ^ dice >> 13) * 0xC2B2AE35 & 0xFFFFFFFF
    return dice ^ dice >> 16


def amount(dice: int, most: int) -> int:
    """Between 1 and `most`, with either sign."""
    dice = again(dice, 1)
    return (1 if dice & 1 else -1) * (1 + (dice >> 1) % most)


def upto(dice: int, most: int) -> int:
    """Between 0 and `most`, both inclusive."""
    return again(dice, 2) % (most + 1)
