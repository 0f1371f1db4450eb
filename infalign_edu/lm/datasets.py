def turns(prompt):
    return [{"role":"user","content":prompt}]
