"""Study files, validated and expanded to plans of trials."""
