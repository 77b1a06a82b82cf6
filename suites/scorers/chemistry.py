"""Scores of a molecule written as SELFIES, against the one that was wanted.

What cannot be read as a molecule counts as wrong and as an empty match in BLEU; leaving it out, as the released code of
PartitionSel does (arXiv 2606.07954), would raise every score. `coverage` is the share of answers that can be decoded,
`validity` that of answers which RDKit accepts as molecules, and `edit_distance` is over the latter only, so read it
beside them.
"""

from functools import cache

from nltk import edit_distance
from nltk.translate.bleu_score import SmoothingFunction, corpus_bleu
from rdkit import Chem, RDLogger
from selfies import DecoderError, decoder

RDLogger.DisableLog("rdApp.*")


def answer(text: str) -> str:
    """The first line up to its last bracket: models go on talking, and SELFIES end with one."""
    line = next((x for x in text.splitlines() if x.strip()), "").strip()
    return line[: line.rfind("]") + 1]


@cache
def molecule(selfies: str) -> tuple[bool, str | None, str | None]:
    """(Decodable, canonical SMILES without stereochemistry, InChI); None where RDKit sees no molecule."""
    try:
        smiles = decoder(selfies)
    except DecoderError:
        return False, None, None
    mol = Chem.MolFromSmiles(smiles) if smiles else None
    if mol is None or not mol.GetNumAtoms():
        return bool(smiles), None, None
    return True, Chem.MolToSmiles(mol, isomericSmiles=False), Chem.MolToInchi(mol) or None


def process_results(doc: dict, results: list[str]) -> dict[str, object]:
    """lm-eval's hook: one item's scores; of BLEU, the two texts."""
    given, wanted = answer(results[0]), answer(doc["target"])
    decodable, smiles, inchi = molecule(given)
    _, other, key = molecule(wanted)
    return {
        "exact_match": int(inchi is not None and inchi == key),
        "bleu": (wanted, given),
        "edit_distance": None if smiles is None or other is None else edit_distance(smiles, other),
        "validity": int(smiles is not None),
        "coverage": int(decodable),
    }


def corpus(pairs: list[tuple[str, str]]) -> float:
    """Corpus BLEU over characters, 4-grams, smoothed by nothing: of no match at all it is 0."""
    return float(
        corpus_bleu(
            [[list(wanted)] for wanted, _ in pairs],
            [list(given) for _, given in pairs],
            smoothing_function=SmoothingFunction().method0,
        )
    )


def mean_known(values: list[int | None]) -> float:
    """Mean over the items that have a value; not a number if none has."""
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if known else float("nan")
