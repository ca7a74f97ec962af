"""What the documentation quotes: one folder for each experiment, run and rendered by `python -m experiments`.

experiments/NAME/
    experiment.py    what is run, in parts, and the tables made of its results
    page.md          what is said about it, with places for the tables; rendered into docs/NAME.md
    results/         JSON and figures
"""
