"""Findings: what a patient may have beside a healthy body. One file for each kind of shape."""
