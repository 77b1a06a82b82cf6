"""Shape: the model's own responses, graded, become what it is trained on."""

from dataclasses import dataclass

from harness.api import Lab


@dataclass(frozen=True)
class Rewriting:
    def run(self, lab: Lab) -> None:
        chosen = lab.counts({"copy": 6, "flip": 4, "next": 2})
        for chunk in range(3):
            lab.train(chosen, "1 epoch", keep="none")
            asked, here = lab.draw(chosen), lab.checkpoint()
            found = lab.generate(asked, max_new_tokens=3, temperature=1.0, n=2)
            right = [lab.grade(asked[k // 2], g.text) for k, g in enumerate(found)]
            new = [lab.rewrite(e, f" {chunk}{k}{found[2 * k].text}") for k, e in enumerate(asked)]
            lab.log("written", {"right": right, "versions": [e and e.version for e in new]})
            lab.train(lab.just([e for e in new if e] + lab.sample("copy", 4)), "2 step", keep="none")
            with lab.fork("probe", start=here if chunk else "now") as child:
                child.log("loss", [float(row.sum()) for row in child.logprobs(child.sample("copy", 3))])
            if chunk == 1:
                lab.rollback(here)
        lab.train(chosen.without(asked), objective=lambda t: t.p * t.nll)
