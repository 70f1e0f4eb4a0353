"""The step: sampling, grading, advantages and the actor update of the local engine."""
