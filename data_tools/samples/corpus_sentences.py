"""Reads the sentence starts of any document of a corpus, with few packs in memory."""

from bisect import bisect_right
from collections import OrderedDict
from itertools import accumulate

import numpy as np

from data_tools.corpus import Corpus
from data_tools.errors import InputError
from data_tools.samples.plan_pairs import Bounds, RandomStream

_PARTNERS = 8
_PACKS_IN_MEMORY = 2 * _PARTNERS


class PackSentences:
    """Where the sentences of each document in a pack begin."""

    def __init__(self, corpus: Corpus, pack: int) -> None:
        documents = corpus.document_starts(pack)
        stop = corpus.pack_range(pack)[1]
        self._ends = np.append(documents[1:], stop) - 1  # The positions of eos.
        sentences = corpus.sentence_starts(pack)
        self._starts = sentences[np.diff(sentences, append=stop) > 0]  # Only sentences with tokens.
        self._firsts = np.searchsorted(self._starts, documents)
        self._stops = np.searchsorted(self._starts, self._ends)
        self.num_documents = len(documents)

    def document(self, number: int) -> Bounds:
        """The sentence starts of a document, followed by the position of its eos."""
        inside = self._starts[self._firsts[number] : self._stops[number]].tolist()
        return [*inside, int(self._ends[number])]


class CorpusSentences:
    """The sentences of every document of a corpus, by the number of the document."""

    def __init__(self, corpus: Corpus) -> None:
        """Counts the documents of each pack.

        Raises:
            InputError: The corpus has only one document, or no sentence starts.
        """
        self._corpus = corpus
        counts = (len(corpus.document_starts(pack)) for pack in range(corpus.num_packs))
        self.first_documents = [0, *accumulate(counts)]
        """The number of the first document of each pack, then the number of all documents."""
        if self.num_documents < 2:
            raise self._no_other_document()
        self._packs: OrderedDict[int, PackSentences] = OrderedDict()

    @property
    def num_documents(self) -> int:
        """Documents in the corpus."""
        return self.first_documents[-1]

    def pack(self, number: int) -> PackSentences:
        """The sentences of a pack; the packs that were used last stay in memory."""
        found = self._packs.pop(number, None) or PackSentences(self._corpus, number)
        self._packs[number] = found
        while len(self._packs) > _PACKS_IN_MEMORY:
            self._packs.popitem(last=False)
        return found

    def choose_partners(self, rng: RandomStream) -> list[int]:
        """Draws the packs from which the random documents for one pack are taken.

        The probability of a pack is proportional to its number of documents, so all documents of
        the corpus are equally likely. The pairs of one pack need at most nine packs.
        """
        draws = (rng.below(self.num_documents) for _ in range(_PARTNERS))
        return [bisect_right(self.first_documents, number) - 1 for number in draws]

    def choose_other(self, document: int, partners: list[int], rng: RandomStream) -> Bounds:
        """Chooses a random document other than `document` in the packs `partners`.

        Returns:
            The sentences of the chosen document.

        Raises:
            InputError: No other document has any text.
        """
        pack = partners[rng.below(len(partners))]
        first, stop = self.first_documents[pack : pack + 2]
        number = first + rng.below(stop - first)
        for _ in range(self.num_documents):
            if number != document and len(found := self._document(number)) > 1:
                return found
            number = (number + 1) % self.num_documents
        raise self._no_other_document()

    def _document(self, number: int) -> Bounds:
        pack = bisect_right(self.first_documents, number) - 1
        return self.pack(pack).document(number - self.first_documents[pack])

    def _no_other_document(self) -> InputError:
        return InputError(
            f"{self._corpus.folder} has only one document with text, but pairs need at least two: "
            "shard more documents"
        )
