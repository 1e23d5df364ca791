"""Core ML packages: conversion, execution on any OS, verification, placement."""
