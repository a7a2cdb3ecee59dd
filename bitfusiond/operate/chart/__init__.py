"""The Helm chart: made by ``just chart`` from what ``just manifests`` prints, so that both say the same.

``manifests.build`` is asked with each choice by itself and each two together (``options``). What these documents have
in common is text; where they differ the choice is found that explains it (``conditions``, ``merge``), and what stands
for an operator's value becomes a template's expression (``template``). No object is described a second time.
"""
