"""What can be said about readers, ratings and predictions, each number with its uncertainty.

- `intervals`: an estimate with its interval; bootstrap over patients, Wilson for shares.
- `association`: how attributes go together as categories (chi-square, conditional probability).
- `correlation`: how they go together as numbers, and how alike two such matrices are.
- `agreement`: how far apart readers are who are anonymous and change from nodule to nodule.
- `reliability`: how much of their agreement is more than chance (kappa, alpha, ICC).
- `importance`: which ratings carry a decision (recursive feature elimination).
- `scoring`: errors, skill, AUC, scores of classes and Dice, of a model or a baseline.
- `paired`: which of two models errs less on the same lesions.
- `baselines`: what a predictor predicts that never sees the image.
- `audit`, `audit_rows`: which printed numbers are not mutually consistent.

Nothing is imported here: each module opens when it is entered, e.g.
`from lesionlab.statistics import agreement`.
"""
