"""The toy: one weight between two grid points, and what each method does to it."""

from stillbit.toy.toy import toy as toy
